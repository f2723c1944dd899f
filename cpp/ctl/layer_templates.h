// What `mhvctl layer new` writes; @NAME@ is the layer's. tests/unit/layer/test_layer_new.py builds and runs it.
#pragma once

namespace mhv::ctl {

inline constexpr const char* kLayerManifest = R"({
  "name": "@NAME@",
  "version": "0.1",
  "vendor": "example",
  "abi": 1,
  "program": "@NAME@",
  "claims": {"memory": "read", "written_pages": true, "vcpu": "read", "events": ["send"]},
  "resources": {"memory_mib": 64, "cpu_percent": 20, "epoch_ms": 1000, "budget_ms": 50},
  "policy": "fail-open",
  "configuration": {
    "type": "object",
    "properties": {"alert_above_mib": {"type": "integer", "minimum": 0, "default": 1024}},
    "additionalProperties": false
  }
}
)";

inline constexpr const char* kLayerCpp = R"(// @NAME@: counts what a guest writes, and says so when it is much.
#include <sdk/layer.h>

using mhv::sdk::Json;

class Counter : public mhv::sdk::Layer {
 public:
  Counter() : Layer("0.1") {}

  void on_start(mhv::sdk::Guest&, const Json& configuration) override { above_mib_ = configuration.value("alert_above_mib", 1024u); }

  void on_epoch(const mhv::sdk::Epoch& epoch) override {
    std::uint64_t bytes = 0;
    for (const auto& range : epoch.written) bytes += range.bytes;
    total_ += bytes;
    if (bytes >> 20 > above_mib_) raise_alert(mhv::sdk::Severity::kWarning, "the guest writes much", {{"bytes", bytes}});
  }

  Json on_request(const std::string& method, const Json& arguments) override {
    if (method == "total") return {{"bytes", total_}};
    if (method == "kernel") return guest().kernel().banner();
    return Layer::on_request(method, arguments);  // an error: there is no such method
  }

 private:
  std::uint64_t total_ = 0, above_mib_ = 0;
};

int main(int argc, char** argv) {
  Counter layer;
  return mhv::sdk::run(layer, argc, argv);
}
)";

inline constexpr const char* kLayerCMake = R"(cmake_minimum_required(VERSION 3.25)
project(@NAME@ LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
find_package(mhv-layer REQUIRED)
add_executable(@NAME@ main.cpp)
target_link_libraries(@NAME@ PRIVATE mhv::layer)
# What is packed: the program, stripped, and what it claims.
set(package ${CMAKE_BINARY_DIR}/package)
configure_file(manifest.json ${package}/manifest.json COPYONLY)
add_custom_command(TARGET @NAME@ POST_BUILD COMMAND ${CMAKE_STRIP} -o ${package}/@NAME@ $<TARGET_FILE:@NAME@>)
)";

inline constexpr const char* kLayerPython = R"(#!/usr/bin/python3
"""@NAME@: counts what a guest writes, and says so when it is much."""

import sys

from nova_mhv.layer import Layer, Severity, run


class Counter(Layer):
    def on_start(self, guest, configuration):
        self.above_mib = configuration.get("alert_above_mib", 1024)
        self.total = 0

    def on_epoch(self, epoch):
        written = sum(size for start, size in epoch.written)
        self.total += written
        if written >> 20 > self.above_mib:
            self.raise_alert(Severity.WARNING, "the guest writes much", {"bytes": written})

    def on_request(self, method, arguments):
        if method == "total":
            return {"bytes": self.total}
        if method == "kernel":
            return self.guest.banner()
        return super().on_request(method, arguments)  # an error: there is no such method


if __name__ == "__main__":
    sys.exit(run(Counter("0.1")))
)";

inline constexpr const char* kLayerReadmeCpp = R"(@NAME@
======

A layer for nova-mhv. Its code is ``main.cpp``, its claims are ``manifest.json``; ``doc/layers.rst`` of nova-mhv says what both may hold.

Build it with nova-mhv's SDK (``-Dmhv-layer_DIR=FOLDER`` where CMake does not find it)::

    cmake -S . -B build && cmake --build build

Make a key once, put your name in the place of ``example`` in ``manifest.json``, and pack the layer for those who run clouds::

    openssl genpkey -algorithm ed25519 -out secret.pem
    openssl pkey -in secret.pem -pubout -out public.pem
    mhvctl layer pack build/package --key secret.pem --output @NAME@-0.1.tar

They get the package and ``public.pem``; ``doc/layer-packages.rst`` says what they do with them. Keep ``secret.pem`` to yourself.
)";

inline constexpr const char* kLayerReadmePython = R"(@NAME@
======

A layer for nova-mhv. Its code is ``@NAME@``, its claims are ``manifest.json``; ``doc/layers.rst`` of nova-mhv says what both may hold.
There is nothing to build. ``nova_mhv.layer`` is there on hosts; to run it elsewhere, Python needs ``nova_mhv``.

Make a key once, put your name in the place of ``example`` in ``manifest.json``, and pack the layer for those who run clouds::

    openssl genpkey -algorithm ed25519 -out ../secret.pem
    openssl pkey -in ../secret.pem -pubout -out ../public.pem
    mhvctl layer pack . --key ../secret.pem --output ../@NAME@-0.1.tar

They get the package and ``public.pem``; ``doc/layer-packages.rst`` says what they do with them. Keep ``secret.pem`` to yourself.
)";

}  // namespace mhv::ctl
