// Protobuf messages as JSON with numbers as numbers (protobuf's own writer makes strings of 64-bit ones).
#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

#include "ctl/format.h"

namespace mhv::ctl {
namespace {

namespace pb = google::protobuf;
using Json = nlohmann::ordered_json;

Json convert(const pb::Message& message);

std::string enum_name(const pb::EnumValueDescriptor* value) {
  std::string name = value->name();
  name = name.substr(name.find('_') + 1);
  for (char& c : name) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

Json single(const pb::Message& message, const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32: return reflection->GetInt32(message, field);
    case pb::FieldDescriptor::CPPTYPE_INT64: return reflection->GetInt64(message, field);
    case pb::FieldDescriptor::CPPTYPE_UINT32: return reflection->GetUInt32(message, field);
    case pb::FieldDescriptor::CPPTYPE_UINT64: return reflection->GetUInt64(message, field);
    case pb::FieldDescriptor::CPPTYPE_DOUBLE: return reflection->GetDouble(message, field);
    case pb::FieldDescriptor::CPPTYPE_FLOAT: return reflection->GetFloat(message, field);
    case pb::FieldDescriptor::CPPTYPE_BOOL: return reflection->GetBool(message, field);
    case pb::FieldDescriptor::CPPTYPE_ENUM: return enum_name(reflection->GetEnum(message, field));
    case pb::FieldDescriptor::CPPTYPE_STRING: return reflection->GetString(message, field);
    case pb::FieldDescriptor::CPPTYPE_MESSAGE: return convert(reflection->GetMessage(message, field));
  }
  return nullptr;
}

// Replies repeat only strings and messages.
Json repeated(const pb::Message& message, const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = message.GetReflection();
  Json out = Json::array();
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      out.push_back(convert(reflection->GetRepeatedMessage(message, field, i)));
    } else {
      out.push_back(reflection->GetRepeatedString(message, field, i));
    }
  }
  return out;
}

// Maps are of strings alone.
Json map(const pb::Message& message, const pb::FieldDescriptor* field) {
  Json out = Json::object();
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    const Json entry = convert(message.GetReflection()->GetRepeatedMessage(message, field, i));
    out[entry["key"].get<std::string>()] = entry["value"];
  }
  return out;
}

Json convert(const pb::Message& message) {
  Json out = Json::object();
  const pb::Descriptor* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const pb::FieldDescriptor* field = descriptor->field(i);
    out[field->name()] = field->is_map() ? map(message, field) : field->is_repeated() ? repeated(message, field) : single(message, field);
  }
  return out;
}

// ASCII alone: a terminal takes other characters for commands, too.
std::string line(const Json& json) { return json.dump(-1, ' ', true, Json::error_handler_t::replace); }

}  // namespace

std::string to_json(const pb::Message& message) { return line(convert(message)); }

std::string error_json(const Error& error) {
  return line({{"error", {{"code", code_name(error.code())}, {"message", error.what()}, {"hint", error.hint()}}}});
}

}  // namespace mhv::ctl
