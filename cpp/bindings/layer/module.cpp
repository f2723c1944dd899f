// nova_mhv._layer: libmhv-layer for Python. Converts, and holds the GIL only while a handler of the layer runs; everything else is cpp/sdk.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "introspection/processes.h"
#include "sdk/layer.h"

namespace py = pybind11;
namespace {

using mhv::Code;
using mhv::Error;
using mhv::introspection::AddressSpace;
using mhv::sdk::Decision;
using mhv::sdk::Json;
using mhv::sdk::Layer;
using nogil = py::call_guard<py::gil_scoped_release>;
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  // start, bytes

py::object to_python(const Json& value) {
  return py::module_::import("json").attr("loads")(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Json from_python(const py::object& value) { return Json::parse(py::module_::import("json").attr("dumps")(value).cast<std::string>()); }

py::object error_type() { return py::module_::import("nova_mhv.layer").attr("LayerError"); }

Error error_of(py::error_already_set& error) {
  const auto text = [&](const char* name) { return py::str(error.value().attr(name)).cast<std::string>(); };
  if (!error.matches(error_type())) {
    return {Code::kInternal,
            py::str(error.type().attr("__name__")).cast<std::string>() + ": " + py::str(error.value()).cast<std::string>()};
  }
  Code code = Code::kInternal;
  for (int each = 0; each <= static_cast<int>(Code::kUnavailable); ++each) {
    if (text("code") == mhv::code_name(static_cast<Code>(each))) code = static_cast<Code>(each);
  }
  return {code, text("message"), text("hint")};
}

// Runs `call` with the GIL; what Python throws becomes an Error.
template <typename Call>
auto in_python(Call call) {
  const py::gil_scoped_acquire gil;
  try {
    return call();
  } catch (py::error_already_set& error) {
    throw error_of(error);
  } catch (const py::cast_error&) {
    throw Error(Code::kInternal, "the handler returned what it must not");
  }
}

struct Epoch {
  std::uint64_t number, time_ns;
  bool paused;
  std::vector<mhv::ring::Vcpu> vcpus;
  Ranges written;
  bool written_all;
};

Ranges ranges_of(std::span<const mhv::ring::PageRange> ranges) {
  Ranges out;
  for (const auto& range : ranges) out.emplace_back(range.start, range.bytes);
  return out;
}

// Sees the guest through the layer: after the end of run(), or of the layer, there is none, and every call says so.
class Guest {
 public:
  explicit Guest(std::shared_ptr<const Layer*> layer) : layer_(std::move(layer)) {}

  std::string uuid() const { return guest().uuid(); }
  std::string name() const { return guest().name(); }
  std::vector<mhv::ring::Vcpu> vcpus() const { return {guest().vcpus().begin(), guest().vcpus().end()}; }
  Ranges written() const { return ranges_of(guest().written()); }
  bool written_all() const { return guest().written_all(); }
  Ranges ranges() const {
    Ranges out;
    for (const auto& range : guest().ranges()) out.emplace_back(range.start.value, range.bytes);
    return out;
  }
  std::optional<py::bytes> read(std::uint64_t at, std::size_t bytes) const {
    return read_with(bytes, [&](std::span<std::byte> out) { return guest().read({at}, out); });
  }
  std::string banner() const { return guest().kernel().banner(); }
  std::uint64_t symbol(const std::string& symbol) const { return guest().kernel().symbol(symbol).value; }
  std::uint32_t offset(const std::string& structure, const std::string& member) const { return guest().kernel().offset(structure, member); }
  std::vector<mhv::introspection::Process> processes() const { return mhv::introspection::Processes(guest().kernel()).list(); }
  AddressSpace kernel_space() const { return guest().kernel().space(); }
  AddressSpace process_space(std::int32_t pid) const { return guest().process(pid); }

  // Memory of a guest that is there no more is not looked at.
  void check(const AddressSpace& space) const {
    if (&space.memory() != &guest()) throw Error(Code::kGone, "the guest of this memory is gone");
  }

  template <typename Read>
  static std::optional<py::bytes> read_with(std::size_t bytes, Read read) {
    constexpr std::size_t kBytesMax = 1 << 30;
    if (bytes > kBytesMax) throw Error(Code::kInvalid, "too much to read at once", "read parts of it");
    std::string out(bytes, '\0');
    bool all;
    {
      const py::gil_scoped_release release;
      all = read(std::as_writable_bytes(std::span(out)));
    }
    if (!all) return std::nullopt;
    return py::bytes(out);
  }

 private:
  mhv::sdk::Guest& guest() const {
    if (*layer_ == nullptr) throw Error(Code::kInvalid, "the layer is gone");
    return (*layer_)->guest();
  }
  std::shared_ptr<const Layer*> layer_;
};

class Space {
 public:
  Space(Guest guest, const AddressSpace& space) : guest_(guest), space_(space) {}
  std::optional<py::bytes> read(std::uint64_t at, std::size_t bytes) const {
    guest_.check(space_);
    return Guest::read_with(bytes, [&](std::span<std::byte> out) { return space_.read({at}, out); });
  }
  std::optional<std::uint64_t> translate(std::uint64_t at) const {
    guest_.check(space_);
    const auto mapping = space_.translate({at});
    return mapping ? std::optional(mapping->at.value) : std::nullopt;
  }

 private:
  Guest guest_;
  AddressSpace space_;
};

// Calls the methods of a Python class.
class PythonLayer : public Layer {
 public:
  using Layer::Layer;
  ~PythonLayer() override { *self_ = nullptr; }
  Guest python_guest() const { return Guest(self_); }

  void on_start(mhv::sdk::Guest&, const Json& configuration) override { call("on_start", python_guest(), configuration); }
  void on_epoch(const mhv::sdk::Epoch& epoch) override {
    call("on_epoch", Epoch{epoch.number,
                           epoch.time_ns,
                           epoch.paused,
                           {epoch.vcpus.begin(), epoch.vcpus.end()},
                           ranges_of(epoch.written),
                           epoch.written_all});
  }
  Decision on_packet(mhv::sdk::Packet& packet) override {
    return in_python([&] {
      const py::bytes bytes(reinterpret_cast<const char*>(packet.bytes.data()), packet.bytes.size());
      const py::object out = method("on_packet")(packet.number, packet.nic, packet.direction, bytes);
      if (!py::isinstance<py::bytes>(out)) return out.cast<Decision>();
      const auto replacement = out.cast<std::string>();
      const auto* const first = reinterpret_cast<const std::byte*>(replacement.data());
      packet.replacement.assign(first, first + replacement.size());
      return Decision::kReplace;
    });
  }
  void on_event(const Json& event) override { call("on_event", event); }
  Json on_request(const std::string& name, const Json& arguments) override {
    return in_python([&] { return from_python(method("on_request")(name, to_python(arguments))); });
  }
  void on_stop() override { call("on_stop"); }

 private:
  static py::object converted(const Json& value) { return to_python(value); }
  template <typename T>
  static py::object converted(const T& value) {
    return py::cast(value);
  }
  template <typename... Arguments>
  void call(const char* name, const Arguments&... arguments) {
    in_python([&] { method(name)(converted(arguments)...); });
  }
  py::object method(const char* name) const { return py::cast(this).attr(name); }

  const std::shared_ptr<const Layer*> self_ = std::make_shared<const Layer*>(this);
};

int run(PythonLayer& layer, std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& one : arguments) argv.push_back(one.data());
  argv.push_back(nullptr);
  const py::gil_scoped_release nogil_now;
  return mhv::sdk::run(layer, static_cast<int>(arguments.size()), argv.data());
}

void define_values(py::module_& module) {
  using mhv::sdk::Action;
  using mhv::sdk::Direction;
  using mhv::sdk::Severity;
  py::enum_<Decision>(module, "Decision").value("PASS", Decision::kPass).value("DROP", Decision::kDrop).value("HOLD", Decision::kHold);
  py::enum_<Direction>(module, "Direction").value("FROM_GUEST", Direction::kFromGuest).value("TO_GUEST", Direction::kToGuest);
  py::enum_<Severity>(module, "Severity")
      .value("INFO", Severity::kInfo)
      .value("WARNING", Severity::kWarning)
      .value("CRITICAL", Severity::kCritical);
  py::enum_<Action>(module, "Action")
      .value("CHECKPOINT", Action::kCheckpoint)
      .value("PAUSE", Action::kPause)
      .value("HOLD", Action::kHold)
      .value("RELEASE", Action::kRelease)
      .value("ROLLBACK", Action::kRollback)
      .value("STOP", Action::kStop);
  using mhv::ring::Vcpu;
  py::class_<Vcpu> vcpu(module, "Vcpu");
  for (const auto& [name, member] :
       std::initializer_list<std::pair<const char*, std::uint64_t Vcpu::*>>{{"rip", &Vcpu::rip},
                                                                            {"rsp", &Vcpu::rsp},
                                                                            {"rflags", &Vcpu::rflags},
                                                                            {"cr0", &Vcpu::cr0},
                                                                            {"cr2", &Vcpu::cr2},
                                                                            {"cr3", &Vcpu::cr3},
                                                                            {"cr4", &Vcpu::cr4},
                                                                            {"efer", &Vcpu::efer},
                                                                            {"star", &Vcpu::star},
                                                                            {"lstar", &Vcpu::lstar},
                                                                            {"cstar", &Vcpu::cstar},
                                                                            {"sfmask", &Vcpu::sfmask},
                                                                            {"gs_base", &Vcpu::gs_base},
                                                                            {"kernel_gs_base", &Vcpu::kernel_gs_base},
                                                                            {"idt_base", &Vcpu::idt_base},
                                                                            {"gdt_base", &Vcpu::gdt_base}}) {
    vcpu.def_readonly(name, member);
  }
  vcpu.def_readonly("idt_limit", &Vcpu::idt_limit).def_readonly("gdt_limit", &Vcpu::gdt_limit);
  py::class_<Epoch>(module, "Epoch")
      .def_readonly("number", &Epoch::number)
      .def_readonly("time_ns", &Epoch::time_ns)
      .def_readonly("paused", &Epoch::paused)
      .def_readonly("vcpus", &Epoch::vcpus)
      .def_readonly("written", &Epoch::written)
      .def_readonly("written_all", &Epoch::written_all);
}

void define_guest(py::module_& module) {
  py::class_<Space>(module, "AddressSpace")
      .def("read", &Space::read, py::arg("address"), py::arg("bytes"))
      .def("translate", &Space::translate, py::arg("address"), nogil());
  using mhv::introspection::Process;
  py::class_<Process>(module, "Process")
      .def_readonly("pid", &Process::pid)
      .def_readonly("parent", &Process::parent)
      .def_property_readonly("name", [](const Process& p) { return py::str(py::bytes(p.name).attr("decode")("utf-8", "replace")); })
      .def_property_readonly("command", [](const Process& p) { return py::str(py::bytes(p.command).attr("decode")("utf-8", "replace")); })
      .def_readonly("kernel_thread", &Process::kernel_thread);
  py::class_<Guest>(module, "Guest")
      .def_property_readonly("uuid", &Guest::uuid)
      .def_property_readonly("name", &Guest::name)
      .def_property_readonly("vcpus", &Guest::vcpus)
      .def_property_readonly("written", &Guest::written)
      .def_property_readonly("written_all", &Guest::written_all)
      .def_property_readonly("ranges", &Guest::ranges)
      .def("read", &Guest::read, py::arg("address"), py::arg("bytes"))
      .def("banner", &Guest::banner, nogil())
      .def("symbol", &Guest::symbol, py::arg("name"), nogil())
      .def("offset", &Guest::offset, py::arg("structure"), py::arg("member"), nogil())
      .def("processes", &Guest::processes, nogil())
      .def(
          "kernel", [](const Guest& guest) { return Space(guest, guest.kernel_space()); }, nogil())
      .def(
          "process", [](const Guest& guest, std::int32_t pid) { return Space(guest, guest.process_space(pid)); }, py::arg("pid"), nogil());
}

}  // namespace

PYBIND11_MODULE(_layer, module) {
  module.doc() = "libmhv-layer, converted for Python.";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const py::object type = error_type();
      const py::object instance = type(mhv::code_name(error.code()), error.what(), error.hint());
      PyErr_SetObject(type.ptr(), instance.ptr());
    }
  });
  define_values(module);
  define_guest(module);
  py::class_<PythonLayer>(module, "Layer")
      .def(py::init<std::string>(), py::arg("version") = "0")
      .def_property_readonly("guest",
                             [](const PythonLayer& layer) {
                               layer.guest();
                               return layer.python_guest();
                             })
      .def(
          "raise_alert",
          [](PythonLayer& layer, mhv::sdk::Severity severity, const std::string& title, const py::object& detail) {
            const Json converted = detail.is_none() ? Json::object() : from_python(detail);
            const py::gil_scoped_release release;
            layer.raise_alert(severity, title, converted);
          },
          py::arg("severity"), py::arg("title"), py::arg("detail") = py::none())
      .def(
          "send_event",
          [](PythonLayer& layer, const py::object& event) {
            const Json converted = from_python(event);
            const py::gil_scoped_release release;
            layer.send_event(converted);
          },
          py::arg("event"))
      .def("ask", &PythonLayer::ask, py::arg("action"), py::arg("reason"), py::arg("before_ns") = 0, nogil())
      .def(
          "log", [](PythonLayer& layer, const std::string& text) { layer.log(text); }, py::arg("text"), nogil())
      .def("decide", &PythonLayer::decide, py::arg("packet"), py::arg("decision"), nogil());
  module.def("run", &run, py::arg("layer"), py::arg("arguments"));
}
