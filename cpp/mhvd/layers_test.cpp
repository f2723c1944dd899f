#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/temp_folder_test.h"
#include "mhvd/layer_processes.h"
#include "mhvd/layer_registry.h"

namespace mhv::mhvd {
namespace {

using ::testing::HasSubstr;

void write(const std::string& path, const std::string& text, bool program = false) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
  if (program) std::filesystem::permissions(path, std::filesystem::perms::all);
}

std::string manifest(const std::string& name, const std::string& version = "1") {
  return R"({"name": ")" + name + R"(", "version": ")" + version +
         R"(", "vendor": "v", "abi": 1, "program": "p", "policy": "fail-open", "claims": {"memory": "read"},)" +
         R"( "configuration": {"type": "object", "properties": {"x": {"type": "integer", "default": 7}}}})";
}

TEST(LayerRegistry, FindsPackagesInTheOrderOfItsFolders) {
  const TempFolder folder;
  write(folder.file("a/one/manifest.json"), manifest("one"));
  write(folder.file("a/bad/manifest.json"), "{");
  write(folder.file("a/empty/other"), "");
  write(folder.file("b/one/manifest.json"), manifest("one", "2"));
  write(folder.file("b/two/manifest.json"), manifest("two"));
  const LayerRegistry registry({folder.file("a"), folder.file("b"), folder.file("none")}, folder.file("no"), {});
  const auto all = registry.all();
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[0].manifest.name, "one");
  EXPECT_EQ(all[0].manifest.version, "1");
  EXPECT_TRUE(all[0].manifest.claims.reads_ram());
  EXPECT_EQ(registry.find("two").folder, folder.file("b/two"));
  try {
    registry.find("three");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalid);
    EXPECT_THAT(error.hint(), HasSubstr("checkpoint, one, two"));
  }
}

TEST(LayerRegistry, GivesLayersTheirConfigurations) {
  const TempFolder folder;
  write(folder.file("one/manifest.json"), manifest("one"));
  const LayerRegistry registry({folder.file("")}, folder.file("no"), {});
  protocol::ServiceOptions options;
  options.add_services("checkpoint");
  options.add_services("one");
  registry.check(options);
  EXPECT_EQ(registry.spec("one", options).configuration(), R"({"x":7})");
  (*options.mutable_configurations())["one"] = R"({"x":1})";
  const auto spec = registry.spec("one", options);
  EXPECT_EQ(spec.name(), "one");
  EXPECT_EQ(spec.manifest(), manifest("one"));
  EXPECT_EQ(spec.configuration(), R"({"x":1})");
  (*options.mutable_configurations())["one"] = R"({"y":1})";
  EXPECT_THROW(registry.check(options), Error);
  options.clear_configurations();
  options.add_services("two");
  EXPECT_THROW(registry.check(options), Error);
}

TEST(LayerRegistry, ChecksWhatIsInstalledBeforeItIsStarted) {
  const TempFolder folder;
  const std::string keys = folder.file("keys"), installed = folder.file("installed");
  std::filesystem::create_directories(keys);
  ASSERT_EQ(
      std::system(
          ("cd " + keys + " && openssl genpkey -algorithm ed25519 -out secret && openssl pkey -in secret -pubout -out v.pem").c_str()),
      0);
  const LayerRegistry registry({}, installed, {keys, folder.file("revoked")});
  for (const char* const version : {"9", "10"}) {
    const std::string made = folder.file(std::string("made") + version);
    write(made + "/manifest.json", manifest("one", version));
    write(made + "/p", "program", true);
    std::filesystem::permissions(made + "/p", std::filesystem::perms(0755));
    package::pack(made, keys + "/secret", made + ".tar");
    EXPECT_EQ(registry.install(made + ".tar").manifest.version, version);
    EXPECT_THROW(registry.install(made + ".tar"), Error);
  }
  write(installed + "/.new-x/1/manifest.json", manifest("two"));
  EXPECT_EQ(registry.all().size(), 1) << "what is being unpacked is not there yet";
  EXPECT_EQ(registry.find_trusted("one").manifest.version, "10");
  std::ofstream(installed + "/one/10/p") << "another";
  EXPECT_THROW(registry.find_trusted("one"), Error);
  std::filesystem::remove_all(installed + "/one/10");
  EXPECT_EQ(registry.find_trusted("one").manifest.version, "9");
  std::filesystem::remove(keys + "/v.pem");
  EXPECT_THROW(registry.find_trusted("one"), Error);
  EXPECT_THROW(registry.install(folder.file("made9.tar")), Error);
}

TEST(LayerProcesses, ShowWhatLayersInPythonImportAndTheOperatorsData) {
  const TempFolder folder;
  Config config;
  config.jail = folder.file("jail");
  config.layer_python = folder.file("python");
  config.layer_data = folder.file("data");
  write(config.jail, "#!/bin/sh\necho \"$@\" >" + folder.file("arguments") + "\n", true);
  LayerPackage package;
  package.folder = folder.file("package");
  package.manifest = stack::parse_manifest(manifest("one"));
  LayerUsers users;
  const auto arguments = [&] {
    test_jail(config, users, package);
    return read_file(folder.file("arguments"), 4096);
  };
  EXPECT_THAT(arguments(), ::testing::Not(HasSubstr("--python-path")));
  std::filesystem::create_directories(config.layer_python);
  EXPECT_THAT(arguments(), HasSubstr("--python-path " + config.layer_python + " "));
  std::filesystem::create_directories(config.layer_data + "/other");
  EXPECT_THAT(arguments(), ::testing::Not(HasSubstr("--data")));
  std::filesystem::create_directories(config.layer_data + "/one");
  EXPECT_THAT(arguments(), HasSubstr("--data " + config.layer_data + "/one "));
}

TEST(SubordinateIds, AreThoseOfTheUser) {
  const std::string text = "alice:100:10\nnova-mhv:2000000:65536\n995:5:5\nbroken:1\nbad:x:y\n";
  EXPECT_EQ(parse_subuid(text, "nova-mhv", 995).first, 2000000);
  EXPECT_EQ(parse_subuid(text, "nova-mhv", 995).count, 65536);
  EXPECT_EQ(parse_subuid(text, "someone", 995).first, 5);
  EXPECT_EQ(parse_subuid(text, "broken", 1).count, 0);
  EXPECT_EQ(parse_subuid(text, "bad", 1).count, 0);
  EXPECT_EQ(parse_subuid("", "alice", 1).count, 0);
}

}  // namespace
}  // namespace mhv::mhvd
