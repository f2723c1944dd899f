#include "convert.h"

#include <string>

namespace mhv::bindings {
namespace {

namespace pb = google::protobuf;
namespace py = pybind11;

// DISKS_BEST_EFFORT -> "best-effort"
py::str enum_name(const pb::EnumValueDescriptor* value) {
  std::string name = value->name();
  name = name.substr(name.find('_') + 1);
  for (char& c : name) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return py::str(name);
}

py::object text(const pb::FieldDescriptor* field, const std::string& value) {
  if (field->type() == pb::FieldDescriptor::TYPE_BYTES) return py::bytes(value);
  return py::str(value);
}

py::object single(const pb::Message& message, const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32: return py::int_(reflection->GetInt32(message, field));
    case pb::FieldDescriptor::CPPTYPE_INT64: return py::int_(reflection->GetInt64(message, field));
    case pb::FieldDescriptor::CPPTYPE_UINT32: return py::int_(reflection->GetUInt32(message, field));
    case pb::FieldDescriptor::CPPTYPE_UINT64: return py::int_(reflection->GetUInt64(message, field));
    case pb::FieldDescriptor::CPPTYPE_DOUBLE: return py::float_(reflection->GetDouble(message, field));
    case pb::FieldDescriptor::CPPTYPE_FLOAT: return py::float_(reflection->GetFloat(message, field));
    case pb::FieldDescriptor::CPPTYPE_BOOL: return py::bool_(reflection->GetBool(message, field));
    case pb::FieldDescriptor::CPPTYPE_ENUM: return enum_name(reflection->GetEnum(message, field));
    case pb::FieldDescriptor::CPPTYPE_STRING: return text(field, reflection->GetString(message, field));
    case pb::FieldDescriptor::CPPTYPE_MESSAGE: return to_dict(reflection->GetMessage(message, field));
  }
  return py::none();
}

// The messages a client gets repeat only strings and messages.
py::list repeated(const pb::Message& message, const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = message.GetReflection();
  py::list out;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      out.append(to_dict(reflection->GetRepeatedMessage(message, field, i)));
    } else if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING) {
      out.append(text(field, reflection->GetRepeatedString(message, field, i)));
    } else {
      throw py::type_error("no conversion for the repeated field " + field->full_name());
    }
  }
  return out;
}

// Maps are of strings alone.
py::dict map(const pb::Message& message, const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = message.GetReflection();
  py::dict out;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const py::dict entry = to_dict(reflection->GetRepeatedMessage(message, field, i));
    out[entry["key"]] = entry["value"];
  }
  return out;
}

}  // namespace

py::dict to_dict(const pb::Message& message) {
  const pb::Descriptor* descriptor = message.GetDescriptor();
  py::dict out;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const pb::FieldDescriptor* field = descriptor->field(i);
    const py::str key(field->name());
    if (field->is_map()) {
      out[key] = map(message, field);
    } else if (field->is_repeated()) {
      out[key] = repeated(message, field);
    } else {
      out[key] = single(message, field);
    }
  }
  return out;
}

}  // namespace mhv::bindings
