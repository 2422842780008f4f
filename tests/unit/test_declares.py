"""Which files are run to find endpoints is told from their syntax."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from runpod_flash.project import declares
from runpod_flash.project.scan import python_files

IMPORT = "from runpod_flash import Endpoint\n"
API = IMPORT + 'api = Endpoint(name="api")\n@api.get("/")\nasync def get(): ...\n'


def look(root: Path, files: dict[str, str]) -> tuple[list[str], list[str]]:
    """The files that declare, and what is wrong."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    found, problems = declares.declaring(root, python_files(root))
    return found, [problem.message for problem in problems]


def declaring(root: Path, **files: str) -> list[str]:
    found, problems = look(root, {f"{name}.py": text for name, text in files.items()})
    assert problems == []
    return found


@pytest.mark.parametrize(
    "source",
    [
        IMPORT + "@Endpoint(name='x')\nasync def f(): ...",
        IMPORT + "@Endpoint()\nclass Model: ...",
        IMPORT + "f = Endpoint(name='x')(g)",
        IMPORT + "api = Endpoint(name='x')\n@api.post('/x')\ndef f(): ...",
        IMPORT + "api = Endpoint(name='x')\nregister(api)",
        IMPORT + "api = Endpoint(name='x', image=None)",
        IMPORT + "vllm = Endpoint(name='v', image='vllm/vllm-openai')",
        IMPORT + "E = Endpoint\n@E(name='x')\ndef f(): ...",
        IMPORT + "if True:\n    @Endpoint()\n    def f(): ...",
        IMPORT + "try:\n    pass\nexcept E:\n    @Endpoint()\n    def f(): ...",
        IMPORT + "match x:\n    case 1:\n        @Endpoint()\n        def f(): ...",
        IMPORT + "if __name__ == '__main__':\n    pass\nelse:\n    a = Endpoint()",
        IMPORT + "def gpu(name):\n    return Endpoint(name=name)\n@gpu('x')\ndef f(): ...",
        IMPORT + "class Gpu(Endpoint): ...\n@Gpu('x')\ndef f(): ...",
        "from runpod_flash import Endpoint as E\n@E()\ndef f(): ...",
        "import runpod_flash\n@runpod_flash.Endpoint()\ndef f(): ...",
        "import runpod_flash as rf\n@rf.Endpoint()\ndef f(): ...",
        "from runpod_flash.endpoint import Endpoint\n@Endpoint()\ndef f(): ...",
        "from runpod_flash import *\n@Endpoint()\ndef f(): ...",
        "from runpod_flash import remote, LiveServerless\n"
        "@remote(resource_config=LiveServerless(name='x'))\ndef f(): ...",
        "from runpod_flash import LiveLoadBalancer\nlb = LiveLoadBalancer(name='x')",
    ],
)
def test_an_endpoint_outside_of_functions_declares(tmp_path: Path, source: str) -> None:
    assert declaring(tmp_path, app=source) == ["app.py"]


@pytest.mark.parametrize(
    "source",
    [
        "# runpod_flash Endpoint",
        "from runpod_flash import NetworkVolume\nv = NetworkVolume(name='x')",
        IMPORT,
        IMPORT + "ep = Endpoint(id='abc')",
        IMPORT + "print(Endpoint(id='abc').runsync({}))",
        IMPORT + "print(Endpoint(id='abc').run({}).wait())",
        IMPORT + "ep: Endpoint = Endpoint(id='abc')",
        IMPORT + "def main():\n    @Endpoint()\n    def f(): ...",
        IMPORT + "def call():\n    return Endpoint(id='abc').run()\nprint(call())",
        IMPORT + "if __name__ == '__main__':\n    e = Endpoint(name='x')",
        IMPORT + "f = lambda: Endpoint(name='x')",
        IMPORT + "def f(e: Endpoint) -> Endpoint: ...",
        "from other import Endpoint\n@Endpoint()\ndef f(): ...",
        "import runpod_flash\nfrom flask import Endpoint\n@Endpoint()\ndef f(): ...",
    ],
)
def test_a_file_that_only_calls_endpoints_is_not_run(tmp_path: Path, source: str) -> None:
    assert declaring(tmp_path, app=source) == []


@pytest.mark.parametrize(
    "source",
    [
        "from app import api\n@api.get('/x')\ndef f(): ...",
        "from app import api as other\n@other.get('/x')\ndef f(): ...",
        "import app\n@app.api.get('/x')\ndef f(): ...",
        "import app as other\n@other.api.get('/x')\ndef f(): ...",
        "from app import *\n@api.get('/x')\ndef f(): ...",
        "from app import api\nf = api.get('/x')(g)",
        "from app import api\nrouter = api\n@router.get('/x')\ndef f(): ...",
    ],
)
def test_routes_of_another_file_s_endpoint_declare(tmp_path: Path, source: str) -> None:
    assert declaring(tmp_path, app=API, more=source) == ["app.py", "more.py"]


@pytest.mark.parametrize(
    "source",
    [
        "from app import get\nprint(get())",
        "from app import api\nprint(api)",
        "from app import api\n\ndef main():\n    @api.get('/x')\n    def f(): ...",
        "from app import infer\nprint(infer(3))",
        "from app import api\nprint(api.runsync({}))",
        "from app import api\nprint(api.run({}).wait())",
        "from other import api\n@api.get('/x')\ndef f(): ...",
        "@api.get('/x')\ndef f(): ...",
    ],
)
def test_a_file_that_only_uses_another_s_endpoint_is_not_run(tmp_path: Path, source: str) -> None:
    app = API + "infer = Endpoint(name='infer')(get)\n"
    assert declaring(tmp_path, app=app, more=source) == ["app.py"]


def test_an_endpoint_is_followed_through_folders_packages_and_other_names(tmp_path: Path) -> None:
    found, problems = look(
        tmp_path,
        {
            "pkg/app.py": API,
            "pkg/__init__.py": "from .app import api",
            "pkg/near.py": "from .app import api\n@api.get('/1')\ndef f(): ...",
            "pkg/beside.py": "from app import api\n@api.get('/2')\ndef f(): ...",
            "pkg/module.py": "from . import app\n@app.api.get('/3')\ndef f(): ...",
            "pkg/deep/up.py": "from ..app import api\n@api.get('/4')\ndef f(): ...",
            "renamed.py": "from pkg import api as service",
            "again.py": "from renamed import service\n@service.get('/5')\ndef f(): ...",
            "long.py": "import pkg.app\n@pkg.app.api.get('/6')\ndef f(): ...",
            "other.py": "import flask\nservice = flask.App()\n@service.get('/7')\ndef f(): ...",
        },
    )
    assert problems == []
    names = ["near", "beside", "module", "deep/up", "app"]
    assert found == sorted([*(f"pkg/{name}.py" for name in names), "again.py", "long.py"])


def test_a_factory_of_another_file_declares_where_it_decorates(tmp_path: Path) -> None:
    maker = IMPORT + "def gpu(name):\n    return Endpoint(name=name)\n"
    found = declaring(
        tmp_path,
        common=maker,
        app="from common import gpu\n@gpu('x')\nasync def f(): ...",
        routes="from common import gpu\napi = gpu('y')\n@api.get('/')\nasync def f(): ...",
        script="from common import gpu\ngpu('z')",
    )
    assert found == ["app.py", "routes.py"]


def test_files_that_import_each_other_have_an_end(tmp_path: Path) -> None:
    found = declaring(
        tmp_path,
        app=API,
        a="from b import *\nfrom c import *\nfrom app import api as x\n@api.get('/')\ndef f(): ...",
        b="from a import *\nfrom c import *\nfrom app import api as y\n@it.get('/')\ndef f(): ...",
        c="from c import api\napi = api\n@api.get('/a')\ndef f(): ...",
    )
    assert found == ["app.py"]


def test_files_without_a_hint_are_not_even_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    parse = declares.ast.parse  # type: ignore[attr-defined]

    def watched(source: bytes, file: str) -> object:
        parsed.append(file)
        return parse(source, file)

    monkeypatch.setattr(declares.ast, "parse", watched)  # type: ignore[attr-defined]
    views = "import flask\n@app.get('/')\ndef f(): ..."
    assert declaring(tmp_path, app=API, views=views, broken="def f(") == ["app.py"]
    assert parsed == ["app.py"]


@pytest.mark.parametrize(
    ("source", "message", "shown"),
    [
        ("x = 1\ny = (\nEndpoint", "app.py:3: invalid syntax", ""),
        ("x = 1\n\ny = 1 +\nEndpoint", "app.py:4: invalid syntax", "    y = 1 +\n"),
        ("def f():\nreturn Endpoint", "app.py:3: invalid syntax: expected an", "return Endpoint"),
        ("remote = '\0'", "app.py", ""),
    ],
)
def test_a_syntax_error_is_shown_where_it_is(
    tmp_path: Path, source: str, message: str, shown: str
) -> None:
    (tmp_path / "app.py").write_text(f"import runpod_flash\n{source}\n")
    found, problems = declares.declaring(tmp_path, ["app.py"])
    assert found == []
    assert len(problems) == 1
    assert problems[0].message.startswith(message)
    assert shown in problems[0].detail
    assert problems[0].file == "app.py"
    assert not problems[0].endpoint


@pytest.mark.parametrize("source", ["def f(", "import runpod_flash\ndef f("])
def test_a_syntax_error_of_a_file_without_endpoints_is_nobody_s_business(
    tmp_path: Path, source: str
) -> None:
    assert declaring(tmp_path, other=source) == []


def test_files_that_are_not_text_or_gone_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n" + API.encode())
    (tmp_path / "wrong.py").write_bytes(IMPORT.encode() + b"@Endpoint('\xe9')\ndef f(): ...\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff\xfe")
    found, problems = declares.declaring(
        tmp_path, ["binary.py", "folder.py", "gone.py", "latin.py", "wrong.py"]
    )
    assert found == ["latin.py"]
    assert [problem.file for problem in problems] == ["wrong.py"]
    assert "utf-8" in problems[0].message


def test_a_function_that_another_hides_is_told(tmp_path: Path) -> None:
    found, problems = look(
        tmp_path,
        {
            "app.py": IMPORT
            + "@Endpoint(name='first')\nasync def run(): ...\n"
            + "@Endpoint(name='second')\nasync def run(): ...\n"
            + "api = Endpoint(name='api')\n"
            + "@api.get('/a')\nasync def get(): ...\n@api.get('/b')\nasync def get(): ...\n"
        },
    )
    assert found == ["app.py"]
    assert problems == [
        "app.py:3: run is defined again in line 5, which hides it; give one of them another name"
    ]


def test_the_package_names_all_that_declares() -> None:
    import runpod_flash

    text = Path(runpod_flash.__file__ or "").with_name("legacy.py").read_text()
    resources = {
        line.removeprefix("class ").partition("(")[0]
        for line in text.splitlines()
        if line.startswith("class ") and not line.startswith("class _")
    }
    assert resources | {"Endpoint", "remote"} == declares._DECLARING
