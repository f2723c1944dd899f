// nova_mhv._engine: the client of mhvd, and the arbiter of layers, for Python. Converts arguments, results and errors, and releases the GIL
// while a request is under way; everything else is cpp/client.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <optional>
#include <variant>

#include "client/client.h"
#include "convert.h"
#include "stack/arbiter.h"

namespace py = pybind11;
namespace {

using mhv::bindings::to_dict;
using mhv::client::Client;
using Progress = std::optional<py::function>;  // (stage: str, done: int, total: int)

mhv::protocol::Reply call(Client& client, mhv::protocol::Request request, const Progress& progress = {}, std::span<const int> fds = {}) {
  mhv::client::ProgressFn report;
  if (progress) {
    report = [&progress](const mhv::protocol::Progress& at) {
      const py::gil_scoped_acquire gil;
      (*progress)(at.stage(), at.done(), at.total());
    };
  }
  const py::gil_scoped_release nogil;
  return client.call(std::move(request), report, fds);
}

void attach(Client& client, const std::string& guest, const std::vector<std::string>& services, double interval_s,
            const std::variant<std::uint32_t, std::string>& keep, const std::string& disks, double overhead_max,
            const std::map<std::string, std::string>& configurations) {
  mhv::protocol::Request request;
  auto& attach = *request.mutable_attach();
  attach.set_guest(guest);
  for (const std::string& service : services) attach.mutable_options()->add_services(service);
  attach.mutable_options()->set_checkpoint_interval_s(interval_s);
  const auto* const count = std::get_if<std::uint32_t>(&keep);
  mhv::client::set_keep(*attach.mutable_options(), count != nullptr ? std::to_string(*count) : std::get<std::string>(keep));
  attach.mutable_options()->set_checkpoint_overhead_max(overhead_max);
  attach.mutable_options()->set_checkpoint_disks(mhv::client::parse_disk_policy(disks));
  for (const auto& [service, configuration] : configurations)
    attach.mutable_options()->mutable_configurations()->insert({service, configuration});
  call(client, std::move(request));
}

void detach(Client& client, const std::string& guest) {
  mhv::protocol::Request request;
  request.mutable_detach()->set_guest(guest);
  call(client, std::move(request));
}

void forget(Client& client, const std::string& guest) {
  mhv::protocol::Request request;
  request.mutable_forget()->set_guest(guest);
  call(client, std::move(request));
}

void hold(Client& client, const std::string& guest, const std::string& reason, double timeout_s) {
  mhv::protocol::Request request;
  request.mutable_hold()->set_guest(guest);
  request.mutable_hold()->set_reason(reason);
  request.mutable_hold()->set_timeout_s(timeout_s);
  call(client, std::move(request));
}

void release(Client& client, const std::string& guest) {
  mhv::protocol::Request request;
  request.mutable_release()->set_guest(guest);
  call(client, std::move(request));
}

py::list status(Client& client, const std::string& guest) {
  mhv::protocol::Request request;
  request.mutable_status()->set_guest(guest);
  const auto reply = call(client, std::move(request));
  py::list out;
  for (const auto& entry : reply.status().guests()) out.append(to_dict(entry));
  return out;
}

py::dict self_test(Client& client) {
  mhv::protocol::Request request;
  request.mutable_self_test();
  return to_dict(call(client, std::move(request)).self_test());
}

py::dict checkpoint_create(Client& client, const std::string& guest, const std::string& name, const Progress& progress) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_create()->set_guest(guest);
  request.mutable_checkpoint_create()->set_name(name);
  return to_dict(call(client, std::move(request), progress).checkpoint().checkpoint());
}

py::tuple checkpoint_list(Client& client, const std::string& guest, const std::string& marker, std::uint32_t limit) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_list()->set_guest(guest);
  request.mutable_checkpoint_list()->set_marker(marker);
  request.mutable_checkpoint_list()->set_limit(limit);
  const auto reply = call(client, std::move(request));
  py::list out;
  for (const auto& entry : reply.checkpoint_list().checkpoints()) out.append(to_dict(entry));
  return py::make_tuple(out, reply.checkpoint_list().more());
}

py::dict checkpoint_show(Client& client, const std::string& guest, const std::string& id) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_show()->set_guest(guest);
  request.mutable_checkpoint_show()->set_id(id);
  return to_dict(call(client, std::move(request)).checkpoint().checkpoint());
}

void checkpoint_delete(Client& client, const std::string& guest, const std::string& id) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_delete()->set_guest(guest);
  request.mutable_checkpoint_delete()->set_id(id);
  call(client, std::move(request));
}

py::dict checkpoint_restore(Client& client, const std::string& guest, const std::string& id, const Progress& progress) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_restore()->set_guest(guest);
  request.mutable_checkpoint_restore()->set_id(id);
  return to_dict(call(client, std::move(request), progress).restore());
}

py::dict checkpoint_export(Client& client, const std::string& guest, const std::string& id, int fd, const Progress& progress) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_export()->set_guest(guest);
  request.mutable_checkpoint_export()->set_id(id);
  const std::array<int, 1> fds{fd};
  return to_dict(call(client, std::move(request), progress, fds).export_done());
}

py::dict checkpoint_verify(Client& client, const std::string& guest, const Progress& progress) {
  mhv::protocol::Request request;
  request.mutable_checkpoint_verify()->set_guest(guest);
  return to_dict(call(client, std::move(request), progress).verify());
}

void service_add(Client& client, const std::string& guest, const std::string& service, const std::string& configuration) {
  mhv::protocol::Request request;
  request.mutable_service_add()->set_guest(guest);
  request.mutable_service_add()->set_service(service);
  request.mutable_service_add()->set_configuration(configuration);
  call(client, std::move(request));
}

void service_remove(Client& client, const std::string& guest, const std::string& service) {
  mhv::protocol::Request request;
  request.mutable_service_remove()->set_guest(guest);
  request.mutable_service_remove()->set_service(service);
  call(client, std::move(request));
}

std::string layer_call(Client& client, const std::string& guest, const std::string& layer, const std::string& method,
                       const std::string& arguments) {
  mhv::protocol::Request request;
  auto& asked = *request.mutable_layer_call();
  asked.set_guest(guest);
  asked.set_layer(layer);
  asked.set_method(method);
  asked.set_arguments(arguments);
  return call(client, std::move(request)).layer_answer().result();
}

py::list layer_list(Client& client) {
  mhv::protocol::Request request;
  request.mutable_layer_list();
  const auto reply = call(client, std::move(request));
  py::list out;
  for (const auto& entry : reply.layer_list().layers()) out.append(to_dict(entry));
  return out;
}

py::dict layer_install(Client& client, int fd) {
  mhv::protocol::Request request;
  request.mutable_layer_install();
  const std::array<int, 1> fds{fd};
  return to_dict(call(client, std::move(request), {}, fds).layer_list().layers(0));
}

py::list alerts(Client& client, const std::string& guest, std::uint64_t after) {
  mhv::protocol::Request request;
  request.mutable_alert_list()->set_guest(guest);
  request.mutable_alert_list()->set_after(after);
  const auto reply = call(client, std::move(request));
  py::list out;
  for (const auto& entry : reply.alert_list().alerts()) out.append(to_dict(entry));
  return out;
}

void arbitrate(const std::vector<std::string>& manifests) {
  const py::gil_scoped_release nogil;
  mhv::stack::arbitrate(mhv::stack::read_stack(manifests));
}

// An EngineError with .code ("not-found", see mhv::code_name), .message and .hint.
void define_error(py::module_& module) {
  static PyObject* type =
      PyErr_NewExceptionWithDoc("nova_mhv._engine.EngineError", "What mhvd refused: .code, .message, .hint", nullptr, nullptr);
  module.attr("EngineError") = py::reinterpret_borrow<py::object>(type);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const mhv::Error& error) {
      py::object instance = py::reinterpret_borrow<py::object>(type)(py::str(error.what()));
      instance.attr("code") = mhv::code_name(error.code());
      instance.attr("message") = error.what();
      instance.attr("hint") = error.hint();
      PyErr_SetObject(type, instance.ptr());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
  module.doc() = "The client of mhvd, converted for Python.";
  module.attr("DEFAULT_SOCKET") = mhv::client::kDefaultSocket;
  define_error(module);
  module.def("arbitrate", &arbitrate, py::arg("manifests"),
             "Whether layers go together on one guest: manifests (JSON) or names of built-in services, in order. Raises EngineError.");
  const py::object none = py::none();
  py::class_<Client>(module, "Client")
      .def(py::init<std::string>(), py::arg("socket_path") = mhv::client::kDefaultSocket)
      .def_property_readonly("socket_path", &Client::socket_path)
      .def("attach", &attach, py::arg("guest"), py::arg("services"), py::arg("interval_s") = 0.0, py::arg("keep") = std::uint32_t{0},
           py::arg("disks") = "required", py::arg("overhead_max") = 10.0, py::arg("configurations") = std::map<std::string, std::string>{})
      .def("detach", &detach, py::arg("guest"))
      .def("forget", &forget, py::arg("guest"))
      .def("hold", &hold, py::arg("guest"), py::arg("reason"), py::arg("timeout_s"))
      .def("release", &release, py::arg("guest"))
      .def("status", &status, py::arg("guest") = "")
      .def("self_test", &self_test)
      .def("checkpoint_create", &checkpoint_create, py::arg("guest"), py::arg("name") = "", py::arg("progress") = none)
      .def("checkpoint_list", &checkpoint_list, py::arg("guest"), py::arg("marker") = "", py::arg("limit") = 0)
      .def("checkpoint_show", &checkpoint_show, py::arg("guest"), py::arg("id"))
      .def("checkpoint_delete", &checkpoint_delete, py::arg("guest"), py::arg("id"))
      .def("checkpoint_restore", &checkpoint_restore, py::arg("guest"), py::arg("id"), py::arg("progress") = none)
      .def("checkpoint_export", &checkpoint_export, py::arg("guest"), py::arg("id"), py::arg("fd"), py::arg("progress") = none)
      .def("checkpoint_verify", &checkpoint_verify, py::arg("guest"), py::arg("progress") = none)
      .def("service_add", &service_add, py::arg("guest"), py::arg("service"), py::arg("configuration") = "")
      .def("service_remove", &service_remove, py::arg("guest"), py::arg("service"))
      .def("layer_call", &layer_call, py::arg("guest"), py::arg("layer"), py::arg("method"), py::arg("arguments") = "{}")
      .def("layer_list", &layer_list)
      .def("layer_install", &layer_install, py::arg("fd"))
      .def("alerts", &alerts, py::arg("guest"), py::arg("after") = std::uint64_t{0});
}
