// One run of a layer: takes what the engine says, one message after the other, to the layer's handlers.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "ring/ring.h"
#include "sdk/engine.h"
#include "sdk/layer.h"
#include "sdk/memory_file.h"

namespace mhv::sdk {

class Runtime {
 public:
  // Memory by the number that kHello gives it.
  using OpenMemory = std::function<std::shared_ptr<const MemoryFile>(int number)>;

  Runtime(Layer& layer, ring::Ends ends, OpenMemory open_memory);
  ~Runtime();

  // Until the engine says stop, or ended. Throws what makes it impossible to go on.
  void run();

 private:
  void start(const Json& hello);
  void serve(const ring::Message& message);
  void epoch(const ring::Message& message);
  void packet(const ring::Message& message);
  void event(const ring::Message& message);
  void request(const ring::Message& message);
  void note(const char* where, const std::exception& error);

  Layer& layer_;
  Engine engine_;
  const OpenMemory open_memory_;
  ring::TextParts parts_;
  std::optional<Guest> guest_;
};

}  // namespace mhv::sdk
