# SPDX-License-Identifier: Apache-2.0
"""The regular expressions of the benchmark: what people constrain models with, and what is hard about it.

Each is a name, a pattern, and texts that it matches in full and that it does not. Every engine gets the
pattern as written; those that cannot read it refuse.
"""

from __future__ import annotations

from itertools import product
from typing import Final

_HEADS = (
    "Ash", "Black", "Brook", "Cold", "Deer", "East", "Elm", "Fair", "Glen", "Green", "Hart", "High", "King",
    "Lake", "Long", "Maple", "Mill", "North", "Oak", "Red", "River", "South", "Stone", "West", "White",
)  # fmt: skip
_TAILS = (
    "bridge", "brook", "bury", "by", "church", "dale", "field", "ford", "gate", "ham",
    "haven", "hill", "hurst", "ley", "minster", "mouth", "port", "ton", "ville", "wood",
)  # fmt: skip
CITIES: Final = tuple(head + tail for head, tail in product(_HEADS, _TAILS))
MORE_CITIES: Final = tuple(f"{way} {city}" for way in _HEADS[:10] for city in CITIES)

_CHARACTER = (
    r"\{\n"
    r' "name": "[\w\d\s]{1,16}",\n'
    r' "house": "(格兰芬多|斯莱特林|拉文克劳|赫奇帕奇)",\n'
    r' "blood status": "(纯血统|混血|麻瓜出身)",\n'
    r' "occupation": "(学生|教师|傲罗|魔法部|食死徒|凤凰社)",\n'
    r' "wand": \{\n'
    r' "wood": "[\w\d\s]{1,16}",\n'
    r' "core": "[\w\d\s]{1,16}",\n'
    r' "length": [0-9]{1,2}\.[0-9]{0,2}\n'
    r" \},\n"
    r' "alive": "(在世|已故)",\n'
    r' "patronus": "[\w\d\s]{1,16}",\n'
    r' "bogart": "[\w\d\s]{1,16}"\n'
    r"\}"
)
_HARRY = (
    '{\n "name": "哈利波特",\n "house": "格兰芬多",\n "blood status": "混血",\n "occupation": "学生",\n'
    ' "wand": {\n "wood": "冬青木",\n "core": "凤凰羽毛",\n "length": 11.0\n },\n "alive": "在世",\n'
    ' "patronus": "牡鹿",\n "bogart": "摄魂怪"\n}'
)
_OCTET = r"(25[0-5]|2[0-4]\d|[01]?\d\d?)"
_WORDS = "words and 12 numbers with spaces\tand a tab, "
_THOUGHT = "Let us think about this step by step. There are 12 apples, and 5 are eaten. "

# (name, pattern, texts that match, texts that do not)
PATTERNS: Final[tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]] = (
    # -- named in the measurements of others, so that figures can be compared
    ("ipv4", rf"({_OCTET}\.){{3}}{_OCTET}", ("192.168.1.254", "8.8.8.8"), ("256.1.1.1", "1.2.3")),
    ("ipv4 of the SGLang readme", rf"({_OCTET}.){{3}}{_OCTET}", ("8.8.4.4", "10x0y255z1"), ("1.2.3",)),
    ("date", r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", ("2026-11-24",), ("2026-13-01", "26-11-24")),
    ("email", r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}", ("some.one+x@mail.example.org",), ("a@b",)),
    ("harry potter (zh)", _CHARACTER, (_HARRY,), (_HARRY.replace("在世", "不详"), _HARRY[:-1])),
    (
        "unicode words {1,200}",
        r"[\w\d\s]{1,200}",
        ("words and 12 numbers with spaces", "größer 日本語"),
        ("a-b",),
    ),
    ("ascii words {1,200}", r"[a-zA-Z0-9_ \t\n]{1,200}", ("words and 12 numbers\tand\nlines",), ("größer",)),
    ("cjk {1,50}", r"[\u4e00-\u9fff]{1,50}", ("今天天气很好我们去公园散步吧",), ("hello", "")),
    ("500 cities", "|".join(CITIES), ("Maplehurst", "Ashby", "Northminster"), ("Maple", "Zurich")),
    ("5000 cities", "|".join(MORE_CITIES), ("East Maplehurst", "Elm Ashby"), ("East", "East Zurich")),
    (
        "json string {0,500}",
        r'"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,500}"',
        ('"a string of a few words, \\"quoted\\", with caf\\u00e9 and café\\n"',),
        ('"open', '"bad \\x escape"'),
    ),
    (
        "chain of thought {50,700}",
        r"(.|\n){50,700}\nAnswer: (yes|no)",
        (_THOUGHT * 3 + "\nAnswer: yes",),
        (_THOUGHT,),
    ),
    # -- numbers and identifiers
    ("integer", r"-?(0|[1-9]\d*)", ("0", "-1234567"), ("007", "--1")),
    ("number", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", ("-12.5e-7", "27.25"), (".5", "1.")),
    ("price", r"\$\d{1,3}(,\d{3})*\.\d{2}", ("$1,234,567.89", "$0.99"), ("$1234.5",)),
    ("hex color", r"#[0-9a-fA-F]{6}", ("#ff8800",), ("#ff88",)),
    (
        "uuid",
        r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        ("123e4567-e89b-12d3-a456-426614174000",),
        ("123e4567-e89b-92d3-a456-426614174000",),
    ),
    (
        "semver",
        r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z.-]+)?",
        ("1.20.3-alpha.1+build.7",),
        ("1.02.3",),
    ),
    ("identifier", r"[A-Za-z_][A-Za-z0-9_]*", ("parse_json_schema2",), ("2fast",)),
    ("unicode identifier", r"[^\W\d]\w*", ("größe_der_Liste", "変数1"), ("1a", "a b")),
    ("phone", r"\+?\d{1,3}[ -]?\(?\d{2,4}\)?([ -]?\d{2,4}){2,3}", ("+49 (030) 1234 5678",), ("12",)),
    (
        "iban",
        r"[A-Z]{2}\d{2}( ?[A-Z0-9]{4}){3,7}( ?[A-Z0-9]{1,3})?",
        ("DE89 3704 0044 0532 0130 00",),
        ("DE8",),
    ),
    ("license plate", r"[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} [1-9]\d{0,3}[EH]?", ("MÜ-X 4711", "B-AB 1E"), ("B-AB 0",)),
    (
        "roman numeral",
        r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})",
        ("MCMXCIV", "XLII"),
        ("IIII",),
    ),
    ("isbn", r"97[89]-\d{1,5}-\d{1,7}-\d{1,7}-\d", ("978-3-16-148410-0",), ("977-3-16-148410-0",)),
    # -- time and place
    ("time", r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?", ("23:59:59.125", "07:30"), ("24:00",)),
    (
        "timestamp",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
        ("2026-11-24T21:04:31.25+01:00",),
        ("2026-11-24 21:04",),
    ),
    (
        "month name",
        r"(January|February|March|April|May|June|July|August|September|October|November|December) \d{4}",
        ("September 1987",),
        ("Sept 1987",),
    ),
    (
        "coordinates",
        r"-?([0-8]?\d(\.\d{1,6})?|90), ?-?(1[0-7]\d|\d{1,2})(\.\d{1,6})?",
        ("-33.868820, 151.209290",),
        ("91, 0",),
    ),
    (
        "ipv6 (long form)",
        r"([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}",
        ("2001:0db8:85a3:0:0:8a2e:0370:7334",),
        ("::1",),
    ),
    (
        "url",
        r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+(:\d{1,5})?(/[\w.~%-]*)*(\?[\w=&%.-]*)?(#[\w-]*)?",
        ("https://docs.example.com:8443/a/b.html?q=1&lang=de#top",),
        ("ftp://example.com",),
    ),
    ("unix path", r"(/[^/\x00\n]{1,255})+/?", ("/usr/local/share/naïve file.txt",), ("usr/local",)),
    (
        "windows path",
        r"[A-Z]:\\([^\\/:*?\"<>|\r\n]+\\)*[^\\/:*?\"<>|\r\n]*",
        ("C:\\Program Files\\App\\a.exe",),
        ("C:a",),
    ),
    # -- answers of a model
    ("yes or no", r"(yes|no|Yes|No)", ("yes", "No"), ("maybe",)),
    ("letter of a choice", r"The answer is \([A-E]\)\.", ("The answer is (C).",), ("The answer is (F).",)),
    ("score", r"(10|[0-9](\.[05])?)/10", ("7.5/10", "10/10"), ("11/10",)),
    (
        "sentiment",
        r'\{"sentiment": "(positive|negative|neutral)", "score": (0\.\d{1,3}|1\.0)\}',
        ('{"sentiment": "negative", "score": 0.875}',),
        ('{"sentiment": "bad", "score": 0.1}',),
    ),
    (
        "act",
        r"Thought: [^\n]{1,200}\nAction: (search|lookup|finish)\[[^\]\n]{1,100}\]",
        ("Thought: I need the height of the tower first.\nAction: search[Eiffel Tower]",),
        ("Action: search[x]",),
    ),
    (
        "bullet list",
        r"(- [^\n]{5,80}\n){3,10}",
        ("- Wash the rice\n- Boil two cups of water\n- Wait for 20 minutes\n",),
        ("- too few\n",),
    ),
    (
        "numbered list",
        r"(?:[1-9]\d?\. .+\n){1,20}",
        ("1. First, read.\n2. Then write ½ page.\n",),
        ("First\n",),
    ),
    ("markdown table row", r"\|( [^|\n]* \|){2,8}", ("| name | 12.5 µs | yes |",), ("| a |",)),
    (
        "xml tag",
        r"<([a-z]+)( [a-z-]+=\"[^\"<]*\")*>[^<]*</[a-z]+>",
        ('<a href="/x?y=1" title="Go">text & more</a>',),
        ("<a>",),
    ),
    (
        "python call",
        r"[a-z_]+\(([a-z_]+=(\d+|'[^'\n]*'|True|False|None)(, )?)*\)",
        ("make_plot(title='Größe in mm', width=800, grid=True)",),
        ("f(1)",),
    ),
    (
        "sql select",
        r"SELECT (\*|[a-z_]+(, [a-z_]+)*) FROM [a-z_]+"
        r"( WHERE [a-z_]+ (=|<|>|LIKE) ('[^']*'|\d+))?( LIMIT \d+)?;",
        ("SELECT name, total FROM orders WHERE city = 'São Paulo' LIMIT 10;",),
        ("DELETE FROM a;",),
    ),
    (
        "csv line",
        r'([^",\n]*|"([^"]|"")*")(,([^",\n]*|"([^"]|"")*")){3,9}',
        ('7,"Doe, ""Jo""",Straße 5,,x',),
        ("a,b",),
    ),
    (
        "base64",
        r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
        ("QSBiaXQgb2YgYmFzZTY0IHRleHQ=",),
        ("QS=",),
    ),
    (
        "chess moves",
        r"(\d{1,3}\. ([KQRBN]?[a-h]?[1-8]?x?[a-h][1-8]|O-O(-O)?)[+#]?( [KQRBN]?x?[a-h][1-8][+#]?)? ?)+",
        ("1. e4 e5 2. Nf3 Nc6 3. Bb5 ",),
        ("1. e9",),
    ),
    # -- hard for one design or another
    ("ends with a word", r".*(error|warning|fatal)", ("line 3: unused import: warning",), ("all fine",)),
    ("anything {1,1000}", r"(.|\n){1,1000}", (_WORDS + "Übrigens: 🎉\n\n",), ("",)),
    (
        "nested counts",
        r"((\w{1,10} ){1,8}\w{1,10}[.!?] ){1,20}",
        ("This is one. And here is another one! ",),
        ("one.",),
    ),
    (
        "cyrillic sentence",
        r"[А-ЯЁ][а-яё]+( [а-яё]+){2,12}[.!?]",
        ("Сегодня очень хорошая погода.",),
        ("Hello there you.",),
    ),
    ("no digits", r"[^0-9]{10,300}", ("no digits here — none at all, naïve reader",), ("1234567890",)),
    (
        "case insensitive",
        r"(?i:the quick brown (fox|dog)|lorem ipsum)",
        ("The QUICK brown Fox",),
        ("the quick",),
    ),
    ("emoji and text", r"[\w ,.!🌀-🫿]{1,100}", ("Great work 🎉🚀, see you soon!",), ("#",)),
)
