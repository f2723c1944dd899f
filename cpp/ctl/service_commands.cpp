#include "ctl/service_commands.h"

#include <fstream>
#include <memory>

#include "ctl/answer.h"

namespace mhv::ctl {
namespace {

constexpr std::size_t kConfigurationBytesMax = 64 << 10;

struct Change {
  std::string guest;
  std::string service;
  std::string configuration;
};

int add_service(Session& session, const Change& change) {
  protocol::Request request;
  request.mutable_service_add()->set_guest(change.guest);
  request.mutable_service_add()->set_service(change.service);
  if (!change.configuration.empty())
    request.mutable_service_add()->set_configuration(configuration_of(change.service, change.configuration));
  session.call(std::move(request));
  return session.done(change.guest, change.service + " added");
}

int remove_service(Session& session, const Change& change) {
  protocol::Request request;
  request.mutable_service_remove()->set_guest(change.guest);
  request.mutable_service_remove()->set_service(change.service);
  session.call(std::move(request));
  return session.done(change.guest, change.service + " removed");
}

std::string content_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(Code::kNotFound, "cannot read " + file, "a configuration is JSON, or @ and the name of a file that holds it");
  std::string text(kConfigurationBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

}  // namespace

void add_service_commands(CLI::App& app, Action& chosen) {
  CLI::App& group = *app.add_subcommand("service", "add, remove: a service more or less for a guest that is attached");
  group.require_subcommand(1);
  const auto change = std::make_shared<Change>();
  const auto command = [&](const char* name, const char* help, int (*run)(Session&, const Change&)) {
    CLI::App& made = *group.add_subcommand(name, help);
    made.add_option("DOMAIN", change->guest, "libvirt name or UUID")->required();
    made.add_option("NAME", change->service, "the service; \"mhvctl layer list\" shows them")->required();
    made.callback([change, run, &chosen] { chosen = [change, run](Session& session) { return run(session, *change); }; });
    return &made;
  };
  command("add", "give a guest a service, or the one that it has another configuration", add_service)
      ->add_option("--configure", change->configuration, "JSON, or @FILE");
  command("remove", "take a service from a guest; the others go on", remove_service);
}

std::string configuration_of(const std::string& service, const std::string& text) {
  std::string configuration = text.starts_with('@') ? content_of(text.substr(1)) : text;
  if (configuration.size() > kConfigurationBytesMax) {
    throw Error(Code::kInvalid, "the configuration of " + service + " is too long",
                "at most " + std::to_string(kConfigurationBytesMax) + " bytes");
  }
  if (!Answer::parse(configuration, nullptr, false).is_object()) {
    throw Error(Code::kInvalid, "the configuration of " + service + " is no JSON object",
                "\"mhvctl layer list --json\" shows what it may hold");
  }
  return configuration;
}

void add_configuration(protocol::ServiceOptions& options, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw Error(Code::kInvalid, "\"" + text.substr(0, 64) + "\" configures no service",
                "such as integrity='{\"on_finding\": \"hold\"}', or integrity=@FILE");
  }
  const std::string service = text.substr(0, equals);
  if (!options.mutable_configurations()->insert({service, configuration_of(service, text.substr(equals + 1))}).second)
    throw Error(Code::kInvalid, "there are two configurations of " + service, "give one");
}

}  // namespace mhv::ctl
