"""Python and the 11 languages of MultiPL-E: one table of how a program of each is compiled, run and judged.

A row's `ending` is what is put behind the published tests: it asserts something false, and only where that is noticed
it prints the marker, whose two halves are `{0}` and `{1}`. So a program that switched assertions off, left before its
tests, or printed its own text shows no marker. Commands name tools in braces; `code.toolchains` finds them.
Sources: arXiv 2208.08227 and the MultiPL-E repository, for commands, time limits and what counts as a failure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program or file that a toolchain consists of."""

    names: tuple[str, ...]
    """Names of the program, looked for on the PATH; or patterns of the file's absolute path."""
    debian: str = ""
    """Debian's packages that bring it."""
    otherwise: str = ""
    """Another way to it."""

    @property
    def brought_by(self) -> str:
        """What to do to have it, in one line."""
        ways = [self.otherwise, f"apt-get install {self.debian}" if self.debian else ""]
        return ", or ".join(way for way in ways if way)


@dataclass(frozen=True, kw_only=True)
class Language:
    """A row of the table."""

    name: str
    """As in the names of MultiPL-E's files; python for Python."""
    title: str
    """The head of its column in the paper."""
    source: str
    """The file that a program is written to."""
    compile: str = ""
    run: str
    tools: Mapping[str, Tool]
    """By the names that `compile` and `run` have in braces."""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 15
    """Wall clock of the run."""
    ending: str
    ending_at: str = r"\Z"
    """A pattern: what `ending` replaces in the published tests, or where it is put."""
    before_tests: tuple[str, str] = ("", "")
    """Words of the tests, and what is put before them."""
    marker_in_stderr: bool = False
    """Whether the marker is looked for there rather than in stdout."""
    failure_in_stderr: str = ""
    """A pattern that means failure if stderr has it, or has it before the marker that it holds."""
    precompiled_header: str = ""
    """A header that is compiled once for many programs, into the directory `{headers}`."""
    trial: tuple[str, str]
    """A right program, before and from its tests on: what a toolchain must be able to judge."""


_JDK = "openjdk-17-jdk-headless"
_JAVA = Tool(names=("java",), debian=_JDK)
_NODE = Tool(names=("node", "nodejs"), debian="nodejs")
# A JVM that lives for a second: little memory is reserved, no thread compiles or collects beside it.
_JVM = "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
_JVM_OF_COMPILER = " ".join(f"-J{option}" for option in _JVM.split())
_BEFORE_TWO_BRACES = r"(?=\}\s*\}\s*$)"
_NODE_ENDING = (
    "\ntry { assert.deepEqual(1, 2); } catch (error) { require('process').stdout.write('\\n' + '{0}' + '{1}'); }\n"
)
_JAVASCRIPT_TESTS = (
    "\nconst assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = twice;\n"
    "  assert.deepEqual(candidate(2),4);\n}\n\ntest();"
)

PYTHON = Language(
    name="python",
    title="Python",
    source="main.py",
    run="{python} -I main.py",
    tools={"python": Tool(names=("python3",), debian="python3")},
    # Not by print or sys.stdout, which a right program may have replaced.
    ending=(
        '\ntry:\n    assert False\nexcept AssertionError:\n    __import__("os").write(1, b"\\n" + b"{0}" + b"{1}\\n")\n'
    ),
    trial=("def twice(n):\n    return 2 * n\n", "\nassert twice(2) == 4\n"),
)

MULTIPL_E = (
    Language(
        name="sh",
        title="Shell",
        source="main.sh",
        run="{bash} main.sh",
        tools={"bash": Tool(names=("bash",), debian="bash")},
        ending="\n[[ $- == *e* ]] && builtin printf '\\n%s%s\\n' {0} {1}\n",
        trial=(
            '#!/bin/bash\ntwice() {\n    echo $((2 * $1))\n}\n\ncandidate() {\n    twice "$@"\n}\n',
            '\nset -e\nrun_test() {\n    [[ $(candidate "2") = "4" ]]\n}\n\nrun_test',
        ),
    ),
    Language(
        name="jl",
        title="Julia",
        source="main.jl",
        run="{julia} --startup-file=no main.jl",
        tools={
            "julia": Tool(
                names=("julia",),
                otherwise="unpack an archive of https://julialang.org/downloads and put its bin/ on PATH",
            )
        },
        seconds=5,
        ending=(
            '\ntry\n    @testset begin\n        @test(1 == 2)\n    end\ncatch\n    println("\\n", "{0}", "{1}")\nend\n'
        ),
        trial=(
            "function twice(n::Int64)::Int64\n    2 * n\nend\n",
            "\nusing Test\n\n@testset begin\n\ncandidate = twice;\n\t@test(candidate(2) == 4)\nend\n",
        ),
    ),
    Language(
        name="java",
        title="Java",
        source="Problem.java",
        compile="{javac} " + _JVM_OF_COMPILER + " -encoding UTF8 -cp {javatuples} -d . Problem.java",
        run="{java} " + _JVM + " -ea -cp .:{javatuples} Problem",
        tools={
            "javac": Tool(names=("javac",), debian=_JDK),
            "java": _JAVA,
            "javatuples": Tool(
                names=("/usr/share/java/javatuples.jar", "/usr/share/java/javatuples-*.jar"),
                debian="libjavatuples-java",
            ),
        },
        ending_at=_BEFORE_TWO_BRACES,
        ending=(
            "    try { assert 1 == 2; }"
            ' catch (java.lang.AssertionError error) { System.out.println("\\n" + "{0}" + "{1}"); }\n    '
        ),
        trial=(
            "import org.javatuples.*;\nclass Problem {\n"
            "    public static long twice(long n) {\n        return 2 * n;\n",
            "    }\n    public static void main(String[] args) {\n    assert(twice((2l)) == (4l));\n    }\n\n}\n",
        ),
    ),
    Language(
        name="lua",
        title="Lua",
        source="main.lua",
        run="{lua} main.lua",
        tools={
            "lua": Tool(names=("lua5.4", "lua", "lua5.3"), debian="lua5.4"),
            "luaunit": Tool(names=("/usr/share/lua/5.*/luaunit.lua",), debian="lua-unit"),
        },
        ending_at=r"os\.exit\(lu\.LuaUnit\.run\(\)\)\s*$",
        ending=(
            "local failures = lu.LuaUnit.run()\n"
            "function test_false() lu.assertEquals(1, 2) end\n"
            "if failures == 0 and lu.LuaUnit.run('test_false') == 1 then print('\\n' .. '{0}' .. '{1}') end\n"
            "os.exit(failures)\n"
        ),
        trial=(
            "local function twice(n)\n    return 2 * n\nend\n",
            "\nlu = require('luaunit')\n\nfunction test_humaneval()\nlocal candidate = twice\n"
            "    lu.assertEquals(candidate(2), 4)\nend\n\nos.exit(lu.LuaUnit.run())",
        ),
    ),
    Language(
        name="cpp",
        title="C++",
        source="main.cpp",
        compile="{g++} -std=c++17 -I{headers} -include bits/stdc++.h -o main main.cpp",
        run="./main",
        tools={"g++": Tool(names=("g++",), debian="g++")},
        precompiled_header="bits/stdc++.h",
        before_tests=("int main() {", "#undef NDEBUG\n#include <assert.h>\n"),
        ending_at=r"(?=\}\s*$)",
        ending='    std::puts("\\n{0}" "{1}");\n',
        trial=(
            "#include<assert.h>\n#include<bits/stdc++.h>\nlong twice(long n) {\n    return 2 * n;\n",
            "}\nint main() {\n    auto candidate = twice;\n    assert(candidate((2)) == (4));\n}\n",
        ),
    ),
    Language(
        name="php",
        title="PHP",
        source="main.php",
        run="{php} main.php",
        tools={"php": Tool(names=("php",), debian="php-cli")},
        ending="\necho \"\\n\" . '{0}' . '{1}' . \"\\n\";\n",
        trial=(
            "<?php\nfunction twice($n) {\n    return 2 * $n;\n}\n",
            "\nfunction candidate(...$args) {\n    return twice(...$args);\n}\n\nfunction test(): void {\n"
            '    if (candidate(2) !== 4) { throw new Exception("Test failed!"); }\n}\n\ntest();',
        ),
    ),
    Language(
        name="js",
        title="JavaScript",
        source="main.js",
        run="{node} main.js",
        tools={"node": _NODE},
        seconds=5,
        ending=_NODE_ENDING,
        trial=("function twice(n){\n    return 2 * n;\n}\n", _JAVASCRIPT_TESTS),
    ),
    Language(
        name="ts",
        title="TypeScript",
        source="main.ts",
        compile="{node} {tsc} --target esnext --skipLibCheck main.ts",
        run="{node} main.js",
        tools={
            "node": _NODE,
            "tsc": Tool(names=("tsc",), otherwise="npm install -g typescript@5.9.3", debian="node-typescript"),
        },
        ending=_NODE_ENDING,
        trial=(
            "function twice(n: number): number {\n    return 2 * n;\n}\n",
            "\ndeclare var require: any;" + _JAVASCRIPT_TESTS,
        ),
    ),
    Language(
        name="r",
        title="R",
        source="main.r",
        run="{Rscript} --vanilla main.r",
        tools={"Rscript": Tool(names=("Rscript",), debian="r-base-core")},
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        seconds=5,
        ending=(
            "\nif (base::inherits(base::try(stopifnot(isTRUE(all.equal(1, 2))), silent = TRUE), 'try-error'))"
            " base::cat('\\n', '{0}', '{1}', '\\n', sep = '')\n"
        ),
        trial=(
            "twice <- function(n) {\n    2 * n\n}\n",
            "\ntest_humaneval <- function() {\n    candidate <- twice\n"
            "    stopifnot(isTRUE(all.equal(candidate(2), 4)))\n}\ntest_humaneval()",
        ),
    ),
    Language(
        name="cs",
        title="C#",
        source="main.cs",
        compile="{mcs} -d:DEBUG -r:System.Numerics.dll -out:main.exe main.cs",
        run="{mono} main.exe",
        tools={
            "mcs": Tool(
                names=("mcs",),
                debian="mono-mcs libmono-system-core4.0-cil libmono-system-numerics4.0-cil",
            ),
            "mono": Tool(names=("mono",), debian="mono-runtime"),
        },
        # A failed Debug.Assert is text on stderr and nothing else: the false one of `ending` shows that it is heard.
        environment={"MONO_TRACE_LISTENER": "Console.Error"},
        seconds=5,
        ending_at=_BEFORE_TWO_BRACES,
        ending='    Debug.Assert(1 == 2, "{0}" + "{1}");\n    ',
        marker_in_stderr=True,
        failure_in_stderr=r"System\.Diagnostics\.DefaultTraceListener\.Fail|Unhandled Exception",
        trial=(
            "using System;\nusing System.Numerics;\nusing System.Diagnostics;\nusing System.Linq;\nclass Problem {\n"
            "    public static long Twice(long n) {\n        return 2 * n;\n",
            "    }\n    public static void Main(string[] args) {\n    Debug.Assert(Twice((2L)) == (4L));\n    }\n\n}\n",
        ),
    ),
    Language(
        name="scala",
        title="Scala",
        source="Problem.scala",
        compile="{scalac} " + _JVM_OF_COMPILER + " -d . Problem.scala",
        run="{java} " + _JVM + " -cp .:{library} Problem",
        tools={
            "java": _JAVA,
            "scalac": Tool(names=("scalac",), debian="scala"),
            "library": Tool(names=("/usr/share/java/scala-library.jar",), debian="scala-library"),
        },
        ending_at=_BEFORE_TWO_BRACES,
        ending=(
            "    try { assert(1 == 2); }"
            ' catch { case _: java.lang.AssertionError => println("\\n" + "{0}" + "{1}") }\n    '
        ),
        failure_in_stderr=r"[\s\S]",
        trial=(
            "import scala.math._\nimport scala.collection.mutable._\nobject Problem {\n"
            "    def twice(n : Long) : Long = {\n        2 * n\n",
            "    }\n    def main(args: Array[String]) = {\n    assert(twice((2l)) == (4l));\n    }\n\n}\n",
        ),
    ),
)

LANGUAGES = {row.name: row for row in (PYTHON, *MULTIPL_E)}
