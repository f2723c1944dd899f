#include "ctl/answer.h"

#include <gtest/gtest.h>

#include "base/code_of_test.h"
#include "ctl/escape.h"

namespace mhv::ctl {
namespace {

std::string shown(const std::string& json, std::size_t width = 0) { return answer_text(parse_answer(json), width); }

TEST(Escape, LeavesTextAlone) {
  for (const char* text : {"", "kworker/0:1-events", "zwei Wörter", "名前", "🦊"}) EXPECT_EQ(escaped(text), text);
}

TEST(Escape, ShowsWhatATerminalWouldObey) {
  EXPECT_EQ(escaped("\033[2J"), "\\x1b[2J");
  EXPECT_EQ(escaped("a\nb\tc\r\x7f"), "a\\x0ab\\x09c\\x0d\\x7f");
  EXPECT_EQ(escaped(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(escaped("\xc2\x9b"
                    "31m"),
            "\\x9b31m");  // CSI in one character
  EXPECT_EQ(escaped("evil\u202etxt.exe"), "evil\\u{202e}txt.exe");
  EXPECT_EQ(escaped("\u2066\u2028"), "\\u{2066}\\u{2028}");
}

TEST(Escape, ShowsBytesThatAreNoText) {
  EXPECT_EQ(escaped("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(escaped("\xc0\x9b"), "\\xc0\\x9b");           // a longer form than needed
  EXPECT_EQ(escaped("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(escaped("\xe2\x82x"), "\\xe2\\x82x");
}

TEST(Escape, NothingElseLooksLikeIt) { EXPECT_EQ(escaped("\\x1b"), "\\\\x1b"); }

TEST(Answer, AListIsATableOfItsKeys) {
  EXPECT_EQ(shown(R"([{"pid":1,"name":"init","start_ns":0.5},{"pid":2345,"name":"ünï","start_ns":12}])"),
            " PID  NAME  START NS\n"
            "   1  init       0.5\n"
            "2345  ünï         12\n");
}

TEST(Answer, KeysThatAreNotEverywhereHaveColumns) {
  EXPECT_EQ(shown(R"([{"pid":1},{"pid":2,"tty":"ttyS0","kernel":true},{"tty":"","pid":null}])"),
            "PID  TTY    KERNEL\n"
            "  1  -      -\n"
            "  2  ttyS0  yes\n"
            "  -  -      -\n");
}

TEST(Answer, AnObjectIsALinePerKey) {
  EXPECT_EQ(shown(R"({"banner":"Linux","kaslr_offset":4096,"modules":["a","b"]})"),
            "banner        Linux\n"
            "kaslr_offset  4096\n"
            "modules       [\"a\",\"b\"]\n");
}

TEST(Answer, OtherThingsAreLines) {
  EXPECT_EQ(shown("[]"), "none\n");
  EXPECT_EQ(shown("{}"), "none\n");
  EXPECT_EQ(shown(R"(["a",1])"), "a\n1\n");
  EXPECT_EQ(shown("true"), "yes\n");
}

TEST(Answer, LinesEndWithTheTerminal) {
  EXPECT_EQ(shown(R"([{"pid":1,"command":"/usr/bin/söme-däemon --with"}])", 16), "PID  COMMAND\n  1  /usr/bin/s…\n");
  EXPECT_EQ(shown(R"({"banner":"0123456789"})", 12), "banner  012…\n");
}

TEST(Answer, ALongCellDoesNotWidenEveryLine) {
  const std::string text = shown(R"([{"name":")" + std::string(5000, 'x') + R"(","pid":1},{"name":"y","pid":2}])");
  EXPECT_LT(text.size(), 5300u);
}

TEST(Answer, WhatTheGuestSaysIsEscapedEverywhere) {
  const std::string text = R"([{"na\u001bme":"\u001b[2J\u009b","deep":["\u001b\u202e"]}])";
  for (const std::string& out :
       {shown(text), shown(text.substr(1, text.size() - 2)), shown(R"("\u001b")"), answer_json(parse_answer(text))}) {
    EXPECT_EQ(out.find('\033'), std::string::npos) << out;
    EXPECT_EQ(out.find("\xc2\x9b"), std::string::npos) << out;
    EXPECT_EQ(out.find("\u202e"), std::string::npos) << out;
  }
}

TEST(Answer, JsonKeepsValues) {
  EXPECT_EQ(answer_json(parse_answer(R"({"b":18446744073709551615,"a":"\u001b\u007f"})")),
            R"({"b":18446744073709551615,"a":"\u001b\u007f"})");
}

TEST(Answer, WhatIsNoAnswerIsRefused) {
  std::string keys;
  for (int i = 0; i < 65; ++i) keys += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":0";
  std::string rows;
  for (int i = 0; i < 65; ++i) rows += (i == 0 ? "{\"k" : ",{\"k") + std::to_string(i) + "\":0}";
  for (const std::string& text : {std::string(), std::string("{"), std::string("[1] x"), std::string("\"\xff\""), std::string(1 << 20, '['),
                                  std::string(17, '[') + std::string(17, ']'), "{" + keys + "}", "[{" + keys + "}]", "[" + rows + "]"}) {
    EXPECT_EQ(code_of([&] { shown(text); }), Code::kCorrupt) << text.substr(0, 64);
  }
}

TEST(Answer, AsManyKeysAsATableShows) {
  std::string row;
  for (int i = 0; i < 64; ++i) row += (i == 0 ? "{\"k" : ",\"k") + std::to_string(i) + "\":0";
  EXPECT_NO_THROW(shown("[" + row + "}," + row + "}]"));
}

}  // namespace
}  // namespace mhv::ctl
