#include "ctl/layer_new.h"

#include <fcntl.h>

#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "ctl/layer_templates.h"
#include "stack/manifest.h"

namespace mhv::ctl {
namespace {

namespace fs = std::filesystem;

struct NewLayer {
  std::string name;
  bool python = false;
};

std::string filled_in(std::string_view text, const std::string& name) {
  constexpr std::string_view kName = "@NAME@";
  std::string out;
  for (std::size_t at; (at = text.find(kName)) != std::string_view::npos; text.remove_prefix(at + kName.size())) {
    out.append(text.substr(0, at)).append(name);
  }
  return out.append(text);
}

int make_layer(Session& session, const NewLayer& wanted) {
  if (!stack::is_name(wanted.name)) {
    throw Error(Code::kInvalid, "\"" + wanted.name + "\" cannot be the name of a layer", "a small letter, then up to 31 small letters, digits and -");
  }
  const fs::path folder = wanted.name;
  std::error_code error;
  if (!fs::create_directory(folder, error)) {
    if (!error) throw Error(Code::kExists, wanted.name + " is there already", "choose another name, or remove it");
    throw_errno("cannot make the folder " + wanted.name, error.value());
  }
  const auto write = [&](const std::string& name, std::string_view content, unsigned mode = 0644) {
    const std::string text = filled_in(content, wanted.name), path = folder / name;
    const Fd file = Fd::open(path, O_WRONLY | O_CREAT | O_EXCL, mode);
    write_all(file.get(), std::as_bytes(std::span(text)), path.c_str());
  };
  write("manifest.json", kLayerManifest);
  if (wanted.python) {
    write(wanted.name, kLayerPython, 0755);
    write("README.rst", kLayerReadmePython);
  } else {
    write("main.cpp", kLayerCpp);
    write("CMakeLists.txt", kLayerCMake);
    write("README.rst", kLayerReadmeCpp);
  }
  return session.done(wanted.name, "a layer to begin with; README.rst says how to go on");
}

}  // namespace

void add_layer_new_command(CLI::App& group, Action& chosen) {
  const auto wanted = std::make_shared<NewLayer>();
  CLI::App& command = *group.add_subcommand("new", "make a folder with a layer of one's own to begin with");
  command.add_option("NAME", wanted->name, "of the layer, and of the folder")->required();
  command.add_flag("--python", wanted->python, "in Python instead of C++");
  command.callback([wanted, &chosen] { chosen = [wanted](Session& session) { return make_layer(session, *wanted); }; });
}

}  // namespace mhv::ctl
