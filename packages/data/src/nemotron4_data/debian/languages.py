"""Names of languages: the natural ones of the paper, their codes in registries, and endings of source files.

Source: the language list of the Nemotron-4 15B report (arXiv 2402.16819, figure on multilingual data).
"""

from __future__ import annotations

#: Natural languages of the report except English.
LANGUAGES = (
    "ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "gl", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl",
    "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)  # fmt: skip

#: Codes that registries use for these languages; a region that changes the script is not an alias.
ALIASES = {
    "nb": "no",
    "nn": None,
    "iw": "he",
    "in": "id",
    "zh-tw": None,
    "zh-hk": None,
    "sr-latn": None,
    "sr@latin": None,
    "en": None,
    "en-us": None,
}

#: Programming language of a file, by the ending of its name. For endings that two languages share, the row decides.
ENDINGS = {
    ".adb": "ada", ".ads": "ada", ".asm": "assembly", ".s": "assembly", ".S": "assembly", ".asy": "asymptote",
    ".awk": "awk", ".bas": "basic", ".kbs": "basic", ".bzl": "starlark", ".c": "c", ".cc": "cpp", ".ck": "chuck",
    ".clj": "clojure", ".cmake": "cmake", ".coffee": "coffeescript", ".cpp": "cpp", ".cr": "crystal",
    ".cs": "csharp", ".csd": "csound", ".css": "css", ".cu": "cuda", ".cuh": "cuda", ".cxx": "cpp", ".d": "d",
    ".dfy": "dafny", ".dsp": "faust", ".el": "emacs-lisp", ".elm": "elm", ".epp": "puppet", ".erl": "erlang",
    ".ex": "elixir", ".exs": "elixir", ".f": "fortran", ".f90": "fortran", ".fish": "fish", ".frag": "glsl",
    ".fs": "forth", ".fth": "forth", ".g": "gap", ".glsl": "glsl", ".go": "go", ".h": "c", ".hh": "cpp",
    ".hpp": "cpp", ".hrl": "erlang", ".hs": "haskell", ".hx": "haxe", ".inl": "cpp", ".ipp": "cpp",
    ".java": "java", ".js": "javascript", ".jsonnet": "jsonnet", ".kt": "kotlin", ".kts": "kotlin",
    ".lean": "lean", ".lhs": "haskell", ".libsonnet": "jsonnet", ".lisp": "common-lisp", ".lua": "lua",
    ".ly": "lilypond", ".m4": "m4", ".mac": "maxima", ".md": "markdown", ".mk": "makefile", ".ml": "ocaml",
    ".mli": "ocaml", ".mm": "objective-c", ".mjs": "javascript", ".mo": "modelica", ".nim": "nim",
    ".pas": "pascal", ".php": "php", ".pir": "pir", ".pl": "perl", ".pm": "perl", ".pov": "povray",
    ".proto": "protobuf", ".pxd": "cython", ".py": "python", ".pyi": "python", ".pyx": "cython", ".qml": "qml",
    ".R": "r", ".r": "r", ".raku": "raku", ".rakumod": "raku", ".rb": "ruby", ".rbs": "ruby", ".res": "rescript",
    ".resi": "rescript", ".rkt": "racket", ".rs": "rust", ".rst": "restructuredtext", ".sc": "supercollider",
    ".scala": "scala", ".scm": "scheme", ".scrbl": "scribble", ".scss": "scss", ".sh": "shell", ".sig":
    "standard-ml", ".sls": "scheme", ".sml": "standard-ml", ".sol": "solidity", ".sql": "sql", ".sty": "tex",
    ".sv": "systemverilog", ".swift": "swift", ".tcl": "tcl", ".tex": "tex", ".ts": "typescript", ".tsx":
    "typescript", ".v": "verilog", ".vala": "vala", ".vapi": "vala", ".vert": "glsl", ".vh": "verilog",
    ".vhd": "vhdl", ".vhdl": "vhdl", ".vim": "vim-script", ".vue": "vue", ".xml": "xml", ".yaml": "yaml",
    ".yml": "yaml", ".zig": "zig",
}  # fmt: skip


def language_of_code(code: str) -> str | None:
    """The report's language for a registry's code (`pt-br`, `zh_CN`), None for English and other languages."""
    code = code.lower().replace("_", "-")
    for name in (code, code.split("-")[0]):
        if name in ALIASES:
            return ALIASES[name]
    base = code.split("-")[0]
    return base if base in LANGUAGES else None


def language_of_file(path: str) -> str | None:
    """The programming language of a file by its ending, None if unknown."""
    name = path.rsplit("/", 1)[-1].removesuffix(".gz")
    if name in ("Makefile", "CMakeLists.txt"):
        return "makefile" if name == "Makefile" else "cmake"
    dot = name.rfind(".")
    return ENDINGS.get(name[dot:]) if dot > 0 else None
