"""A project's endpoints are found by a process of its own, whatever is wrong with some files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover
from runpod_flash.project.watching import changes, discover_settled, stamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.project.catalog import Discovered, Problem

IMPORT = "from runpod_flash import Endpoint\n"
QUEUE = IMPORT + "@Endpoint(name='{0}', cpu='cpu3c-1-2')\nasync def {0}(x: int) -> int:\n    ...\n"


def write(root: Path, files: dict[str, str]) -> None:
    (root / "pyproject.toml").touch()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def found(root: Path, files: dict[str, str], seconds: float = 20.0) -> Catalog:
    write(root, files)
    return asyncio.run(discover(root, seconds))


def names(catalog: Catalog) -> list[str]:
    return [each.spec.name for each in catalog.endpoints]


def messages(catalog: Catalog) -> list[str]:
    return [problem.message for problem in catalog.problems]


def only(catalog: Catalog) -> Discovered:
    assert messages(catalog) == []
    assert len(catalog.endpoints) == 1
    return catalog.endpoints[0]


def only_problem(catalog: Catalog) -> Problem:
    assert len(catalog.problems) == 1, messages(catalog)
    return catalog.problems[0]


# A server that looks for endpoints two thousand times, while its threads use its file.
SERVER = """
import asyncio, sqlite3, sys, threading, uvloop
from contextlib import closing
from pathlib import Path
from runpod_flash.project.discovery import discover

def connect():
    return closing(sqlite3.connect("server.db"))

def use():
    while not stop.is_set():
        try:
            with connect() as file:
                file.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as error:
            errors.append(error)

async def look():
    for _ in range(2000):
        await discover(Path.cwd())

stop, errors = threading.Event(), []
sys.executable = "true"  # there is nothing to find: only how it is looked for matters
with connect() as file:
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("CREATE TABLE jobs (id)")
    threads = [threading.Thread(target=use, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    uvloop.run(look())
    stop.set()
    for thread in threads:
        thread.join()
sys.exit(str(errors) if errors else 0)
"""

# What is found


def test_a_function_is_told_with_its_place_its_types_and_its_environment(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "longruns/stage-1.py": """
                from runpod_flash import Endpoint, PodTemplate

                template = PodTemplate(env=[{"key": "A", "value": "1"}, {"key": "B", "value": "2"}])

                @Endpoint(name="stage", cpu="cpu3c-1-2", env={"B": "3"}, template=template)
                async def stage(text: str, count: int = 2) -> dict[str, int]:
                    '''Count it.

                    And more.'''
            """
        },
    )
    each = only(catalog)
    entry = each.spec.entry
    assert catalog.root == entry.root == str(tmp_path)
    assert (each.file, each.line, each.owner) == ("longruns/stage-1.py", 6, "")
    assert (entry.module, entry.qualname, entry.kind) == ("longruns.stage-1", "stage", "function")
    assert (entry.file, entry.search_path) == ("longruns/stage-1.py", (".", "longruns"))
    assert each.env == {"A": "1", "B": "3"}
    assert each.spec.build.code
    (operation,) = each.operations
    assert (operation.name, operation.method, operation.doc) == ("stage", "", "Count it.")
    assert operation.input["properties"] == {
        "text": {"type": "string"},
        "count": {"type": "integer", "default": 2},
    }
    assert operation.output["additionalProperties"] == {"type": "integer"}
    assert not operation.streams


def test_a_class_has_its_public_methods_and_a_generator_streams(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": """
                from runpod_flash import Endpoint

                class Base:
                    def inherited(self): ...

                @Endpoint(name="model", cpu="cpu3c-1-2")
                class Model(Base):
                    def __init__(self): ...
                    async def generate(self, prompt: str) -> str: ...
                    def _own(self): ...
                    @staticmethod
                    def count(n: int): yield n

                @Endpoint(name="tokens", cpu="cpu3c-1-2")
                async def tokens(n: int):
                    yield n
            """
        },
    )
    model, tokens = catalog.endpoints
    assert (model.owner, model.spec.entry.kind) == ("Model", "class")
    assert [(o.method, o.streams) for o in model.operations] == [
        ("generate", False),
        ("count", True),
    ]
    assert list(model.operations[1].input["properties"]) == ["n"]
    assert tokens.spec.entry.kind == "generator"
    assert tokens.operations[0].streams


def test_routes_of_one_endpoint_may_stand_in_several_files(tmp_path: Path) -> None:
    files = {
        "app.py": """
            from runpod_flash import Endpoint
            api = Endpoint(name="api", cpu="cpu3c-1-2")

            @api.post("/items/{key}")
            async def put(key: str, size: int = 1) -> dict: ...
        """,
        "more.py": """
            from app import api

            @api.get("/items")
            async def items() -> list[str]:
                '''All of them.'''

            @api.websocket("/live")
            async def live(socket): ...
        """,
    }
    api = only(found(tmp_path, files))
    assert api.operations == ()
    assert [(r.method, r.path, r.function, r.doc) for r in api.routes] == [
        ("POST", "/items/{key}", "put", ""),
        ("GET", "/items", "items", "All of them."),
        ("WEBSOCKET", "/live", "live", ""),
    ]
    entry = api.spec.entry
    assert (entry.kind, entry.qualname, entry.file) == ("routes", "put", "app.py")
    assert entry.others == ("more.py",)
    changed = {"more.py": textwrap.dedent(files["more.py"]) + "# changed\n"}
    assert only(found(tmp_path, changed)).spec.build.code != api.spec.build.code


def test_endpoints_come_in_the_order_of_files_and_lines_and_survive_the_wire(
    tmp_path: Path,
) -> None:
    second = "\n" + QUEUE.format("b").removeprefix(IMPORT)
    catalog = found(
        tmp_path, {"z.py": QUEUE.format("a") + second, "a/b.py": QUEUE.format("c"), "e.py": "1/0"}
    )
    assert names(catalog) == ["c", "a", "b"]
    assert Catalog.from_wire(json.loads(json.dumps(catalog.to_wire()))) == catalog


def test_an_empty_project_has_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, {"a.py": "raise SystemExit"}) == Catalog(str(tmp_path))


# What is run


def test_files_without_endpoints_are_not_run_and_main_parts_neither(tmp_path: Path) -> None:
    note = "open('ran', 'a').write(__name__)\n"
    files = {
        "app.py": QUEUE.format("f") + f"if __name__ == '__main__':\n    {note}",
        "script.py": IMPORT + f"ep = Endpoint(id='x')\n{note}",
        "other.py": note,
        "tests/app.py": note + QUEUE.format("g"),
    }
    assert names(found(tmp_path, files)) == ["f"]
    assert not (tmp_path / "ran").exists()


def test_this_process_is_as_it_was(tmp_path: Path) -> None:
    before = set(sys.modules), list(sys.path), dict(os.environ), Path.cwd()
    only(found(tmp_path, {"very_own.py": "import os\nos.environ['X1']='1'\n" + QUEUE.format("f")}))
    assert "very_own" not in sys.modules
    assert (list(sys.path), dict(os.environ), Path.cwd()) == before[1:]


def test_a_file_sees_its_project_and_is_in_no_worker(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET=from-dotenv\n")
    source = """
        import os, sys
        from runpod_flash import Endpoint, context
        assert context.current is None
        assert os.getcwd() == ROOT and sys.path[0] == ROOT
        assert not [name for name in os.environ if name.startswith("RUNPOD_POD")]
        @Endpoint(name="f", cpu="cpu3c-1-2", env={"S": os.environ["SECRET"]})
        async def f(): ...
    """
    catalog = found(tmp_path, {"app.py": source.replace("ROOT", repr(str(tmp_path)))})
    assert only(catalog).env == {"S": "from-dotenv"}


def test_each_discovery_runs_the_files_as_they_are_now(tmp_path: Path) -> None:
    for name in ("one", "two", "six"):  # within one second, and of one size
        assert names(found(tmp_path, {"app.py": QUEUE.format(name)})) == [name]


def test_what_files_print_does_not_mix_with_the_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = """
        import os, subprocess, sys
        print("printed")
        os.write(1, b"written\\n")
        subprocess.run(["echo", "from a child"])
        sys.stderr.write("no newline")
    """
    only(found(tmp_path, {"app.py": textwrap.dedent(source) + QUEUE.format("f")}))
    told = capfd.readouterr()
    assert told.out == ""
    for text in ("printed", "written", "from a child", "no newline"):
        assert text in told.err


# Modules


def test_siblings_are_imported_by_plain_names_and_are_not_found_twice(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "a/cpu_worker.py": QUEUE.format("prepare") + "print('ran')\n",
            "a/pipeline.py": "from cpu_worker import prepare\n"
            + IMPORT
            + "api = Endpoint(name='api', cpu='cpu3c-1-2')\n"
            + "@api.get('/')\nasync def get(): return await prepare(1)\n",
            "b.py": "from a.cpu_worker import prepare\n" + QUEUE.format("b"),
        },
    )
    assert messages(catalog) == []
    assert names(catalog) == ["prepare", "api", "b"]


def test_a_file_runs_once_under_whatever_names_it_is_imported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    catalog = found(
        tmp_path,
        {
            "sub/app.py": "print('app runs')\n"
            + IMPORT
            + "api = Endpoint(name='api', cpu='cpu3c-1-2')\n"
            + "@api.get('/1')\nasync def one(): ...\n",
            "sub/more.py": "from app import api\n@api.get('/2')\nasync def two(): ...\n",
            "sub/early.py": "from sub.app import api\n@api.get('/3')\nasync def three(): ...\n",
            "zub.py": "import sub.app\n@sub.app.api.get('/4')\nasync def four(): ...\n",
        },
    )
    assert capfd.readouterr().err.count("app runs") == 1
    assert {r.path for r in only(catalog).routes} == {"/1", "/2", "/3", "/4"}


def test_a_package_that_imports_its_own_files_does_not_run_them_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    catalog = found(
        tmp_path,
        {
            "pkg/__init__.py": "from pkg.app import f\n",
            "pkg/app.py": "print('app runs')\nfrom . import helper\n" + QUEUE.format("f"),
            "pkg/helper.py": "",
        },
    )
    assert names(catalog) == ["f"]
    assert capfd.readouterr().err.count("app runs") == 1


def test_siblings_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    app = "import shared, parts.piece\n" + QUEUE + "    return shared.X\n"
    app += "assert (shared.X, parts.piece.X) == ({1}, {1}), shared\n"
    catalog = found(
        tmp_path,
        {
            **{f"{n}_x/app.py": app.format(f"f{n}", n) for n in (1, 2)},
            **{f"{n}_x/shared.py": f"X = {n}" for n in (1, 2)},
            **{f"{n}_x/parts/piece.py": f"X = {n}" for n in (1, 2)},
        },
    )
    assert messages(catalog) == []
    assert names(catalog) == ["f1", "f2"]


def test_annotations_of_a_sibling_s_classes_are_known_though_they_are_text(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "a/types_of_mine.py": "from __future__ import annotations\n"
            "from dataclasses import dataclass\n\n"
            "@dataclass\nclass Size:\n    width: int\n",
            "a/app.py": "from __future__ import annotations\n"
            "from types_of_mine import Size\n"
            + IMPORT
            + "@Endpoint(name='f', cpu='cpu3c-1-2')\nasync def f(size: Size): ...\n",
        },
    )
    size = only(catalog).operations[0].input["properties"]["size"]
    assert size["properties"] == {"width": {"type": "integer"}}


def test_a_file_may_have_the_name_of_a_library(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "json.py": QUEUE.format("f") + "assert not hasattr(__import__('json'), 'dumps')\n",
            "re.py": QUEUE.format("g") + "1 / 0\n",
            "sub/signal.py": QUEUE.format("h"),
        },
    )
    assert names(catalog) == ["f", "h"]
    assert messages(catalog) == ["re.py:5: ZeroDivisionError: division by zero"]


def test_what_a_file_does_to_its_process_does_not_reach_the_next(tmp_path: Path) -> None:
    change = "import os, sys\nos.chdir('/')\nsys.path.insert(0, '/nowhere')\n"
    check = f"import os, sys\nassert os.getcwd() == sys.path[0] == {str(tmp_path)!r}\n"
    catalog = found(
        tmp_path, {"a.py": change + QUEUE.format("f"), "b.py": check + QUEUE.format("g")}
    )
    assert messages(catalog) == []


def test_absent_packages_are_no_obstacle_and_present_ones_are_real(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": """
                import absent_torch as torch
                from absent_pydantic import BaseModel
                import numpy
                import packaging.version
                from runpod_flash import Endpoint

                assert numpy.zeros(3).shape == (3,)
                torch.set_default_dtype(torch.float32)

                class Item(BaseModel):
                    name: str

                @Endpoint(name="f", cpu="cpu3c-1-2", dependencies=["torch"])
                @torch.no_grad()
                async def f(item: Item, dtype=torch.float32) -> torch.Tensor: ...
            """
        },
    )
    assert only(catalog).operations[0].input == {
        "type": "object",
        "properties": {"item": {}, "dtype": {}},
        "required": ["item"],
        "additionalProperties": False,
    }


# What is wrong


def test_one_broken_file_hides_no_other(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "a.py": QUEUE.format("a"),
            "b.py": IMPORT + "def load():\n    raise ValueError('no\\nsuch')\n\n"
            "api = Endpoint(name='b')\nload()\n",
            "c.py": QUEUE.format("c") + "def (",
            "d.py": "import helper\n" + QUEUE.format("d"),
            "helper.py": "x = 1\ny = x / 0\n",
            "e.py": "import sys\n" + QUEUE.format("e") + "sys.exit(3)",
            "f.py": "import json\n" + QUEUE.format("f") + "json.loads('{')\n",
            "g.py": QUEUE.format("g"),
        },
    )
    assert names(catalog) == ["a", "g"]
    b, c, d, e, f = catalog.problems
    assert (b.file, b.line, b.message) == ("b.py", 3, "b.py:3: ValueError: no")
    assert (c.file, c.line) == ("c.py", 5)
    assert c.message.startswith("c.py:5: invalid syntax")
    assert "def (" in c.detail
    assert (d.file, d.message) == ("d.py", "d.py:1: ZeroDivisionError: division by zero")
    assert e.message.startswith("e.py:6: the import ends the program (SystemExit: 3)")
    assert f.message.startswith("f.py:6: JSONDecodeError")
    assert "in load" in b.detail
    assert "ValueError: no\nsuch" in b.detail
    assert "helper.py" in d.detail
    for problem in (b, d, e, f):
        assert problem.detail.startswith("Traceback (most recent call last):\n")
        for name in ("runpod_flash/", "importlib", "json/decoder.py"):
            assert name not in problem.detail


def test_a_file_that_hangs_is_named_with_its_line_and_hides_no_other(tmp_path: Path) -> None:
    hang = "import time\nfor _ in range(10):\n    try:\n        time.sleep(60)\n"
    catalog = found(
        tmp_path,
        {
            "a.py": QUEUE.format("a"),
            "b.py": QUEUE.format("b") + hang + "    except Exception:\n        pass\n",
            "c.py": QUEUE.format("c"),
        },
        seconds=2,
    )
    assert names(catalog) == ["a", "c"]
    text = "b.py:8: the import has not ended after 2 s; move what takes so long into a function"
    assert messages(catalog) == [text]


@pytest.mark.parametrize(
    ("code", "death"),
    [
        ("os._exit(3)", "ended the process (exit code 3)"),
        ("os.kill(os.getpid(), 9)", "ended the process (SIGKILL)"),
        (
            "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: 0)\ntime.sleep(60)",
            "has not ended after 2 s",
        ),
    ],
)
def test_a_file_that_ends_or_blocks_the_process_is_named_and_hides_no_other(
    tmp_path: Path, code: str, death: str
) -> None:
    catalog = found(
        tmp_path,
        {
            "a.py": QUEUE.format("a"),
            "b.py": f"import os\n{QUEUE.format('b')}{code}\n",
            "c.py": QUEUE.format("c"),
        },
        seconds=2,  # (the other files have so long as well)
    )
    assert names(catalog) == ["a", "c"]
    assert messages(catalog) == [f"b.py: the import {death}"]


def test_routes_of_a_broken_file_are_not_served(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": IMPORT
            + "api = Endpoint(name='api', cpu='cpu3c-1-2')\n@api.get('/1')\nasync def f(): ...\n",
            "more.py": "from app import api\n@api.get('/2')\nasync def g(): ...\n1 / 0\n",
        },
    )
    assert [route.path for route in catalog.endpoints[0].routes] == ["/1"]
    assert catalog.endpoints[0].spec.entry.others == ()
    assert messages(catalog) == ["more.py:4: ZeroDivisionError: division by zero"]


def test_a_file_whose_endpoints_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    odd = "f.__flash_target__.__wrapped__ = f.__flash_target__\n"
    catalog = found(tmp_path, {"a.py": QUEUE.format("f") + odd, "b.py": QUEUE.format("g")})
    assert names(catalog) == ["g"]
    assert only_problem(catalog).message.startswith("a.py: ValueError: wrapper loop")


def test_a_wrong_declaration_is_told_with_its_line(tmp_path: Path) -> None:
    problem = only_problem(found(tmp_path, {"app.py": IMPORT + "\napi = Endpoint(name='a', x=1)"}))
    assert problem.line == 3
    assert problem.message.startswith("app.py:3: TypeError: Endpoint")


def test_deprecated_declarations_are_found(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": """
                from runpod_flash import CpuLiveLoadBalancer, CpuLiveServerless, remote

                queue, model = CpuLiveServerless(name="queue"), CpuLiveServerless(name="model")
                balancer = CpuLiveLoadBalancer(name="balancer")

                @remote(queue, dependencies=["numpy"])
                async def work(x: int) -> int: ...

                @remote(model)
                class Model:
                    def predict(self): ...

                @remote(balancer, method="POST", path="/x")
                async def post(): ...

                @remote(queue, local=True)
                def here(): ...
            """
        },
    )
    assert messages(catalog) == []
    assert names(catalog) == ["queue", "model", "balancer"]
    assert catalog.endpoints[0].spec.build.dependencies == ("numpy",)
    assert [route.path for route in catalog.endpoints[2].routes] == ["/x"]


def test_functions_behind_decorators_are_where_their_names_are(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "deco.py": """
                import functools

                def wrapped(function):
                    @functools.wraps(function)
                    async def wrapper(*args): return await function(*args)
                    return wrapper

                def bare(function):
                    async def wrapper(*args): return await function(*args)
                    return wrapper
            """,
            "app.py": """
                import functools
                from deco import bare, wrapped
                from runpod_flash import Endpoint

                one = Endpoint(name="one", cpu="cpu3c-1-2")
                two = Endpoint(name="two", cpu="cpu3c-1-2")

                @one.get("/1")
                @wrapped
                async def first(): ...

                @two.get("/2")
                @bare
                async def second(): ...
            """,
        },
    )
    assert messages(catalog) == []
    assert {each.spec.entry.qualname for each in catalog.endpoints} == {"first", "second"}
    assert {each.file for each in catalog.endpoints} == {"app.py"}


def test_a_function_without_a_file_is_refused(tmp_path: Path) -> None:
    code = "@Endpoint(name='made', cpu='cpu3c-1-2')\ndef made(): ..."
    problem = only_problem(found(tmp_path, {"app.py": IMPORT + f"A = Endpoint()\nexec({code!r})"}))
    assert problem.endpoint == "made"
    assert "no file that a worker could import" in problem.message


@pytest.mark.parametrize(
    ("route", "address"),
    [
        ("api.post('/f/runsync')", "POST /app/f/runsync"),
        ("api.post('/runsync')", "POST /app/runsync"),
        ("api.post('/run')", "POST /app/run"),
        ("api.get('/status/{job}')", "GET /app/status/{id}"),
        ("api.get('/f/stream/x')", "GET /app/f/stream/{id}"),
        ("api.post('/f/cancel/{x}')", "POST /app/f/cancel/{id}"),
    ],
)
def test_a_route_at_the_address_of_a_function_is_refused(
    tmp_path: Path, route: str, address: str
) -> None:
    code = f"api = Endpoint(name='api', cpu='cpu3c-1-2')\n@{route}\ndef r(): ...\n"
    problem = only_problem(found(tmp_path, {"app.py": QUEUE.format("f") + code}))
    assert (problem.endpoint, address in problem.message) == ("api", True)
    assert "give the route another path" in problem.message


def test_routes_meet_only_where_they_are_the_same(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": QUEUE.format("f")
            + QUEUE.format("g").removeprefix(IMPORT)
            + "a = Endpoint(name='a', cpu='cpu3c-1-2')\nb = Endpoint(name='b', cpu='cpu3c-1-2')\n"
            + "@a.post('/runsync')\ndef r1(): ...\n@a.get('/x/status/a')\ndef r2(): ...\n"
            + "@b.get('/x/status/b')\ndef r3(): ...\n@b.get('/f/runsync')\ndef r4(): ...\n"
            + "c = Endpoint(name='c', cpu='cpu3c-1-2')\n@c.get('/x/status/{z}')\ndef r5(): ...\n"
            + "d = Endpoint(name='d', cpu='cpu3c-1-2')\n@d.get('/x/status/{y}')\ndef r6(): ...\n"
        },
    )
    assert names(catalog) == ["f", "g", "a", "b", "c"]
    assert only_problem(catalog).endpoint == "d"


def test_methods_of_two_classes_have_their_class_in_their_address(tmp_path: Path) -> None:
    code = "@Endpoint(name='{0}', cpu='cpu3c-1-2')\nclass {0}:\n    def go(self): ...\n"
    route = "api = Endpoint(name='api', cpu='cpu3c-1-2')\n@api.post('{}')\ndef r(): ...\n"
    app = IMPORT + code.format("A") + code.format("B")
    assert messages(found(tmp_path, {"app.py": app + route.format("/go/run")})) == []
    problem = only_problem(found(tmp_path, {"app.py": app + route.format("/B/go/run")}))
    assert "POST /app/B/go/run is an address of the endpoint 'B' (app.py:5)" in problem.message


def test_a_function_in_a_function_and_a_lambda_are_refused(tmp_path: Path) -> None:
    catalog = found(
        tmp_path,
        {
            "app.py": IMPORT
            + "def make():\n    @Endpoint(name='inner', cpu='cpu3c-1-2')\n"
            + "    async def inner(): ...\n    return inner\n"
            + "inner = make()\n"
            + "short = Endpoint(name='short', cpu='cpu3c-1-2')(lambda x: x)\n"
        },
    )
    assert names(catalog) == []
    assert [problem.endpoint for problem in catalog.problems] == ["inner", "short"]
    inner, short = messages(catalog)
    assert inner.endswith("no worker can find it; move it to the top level of its module")
    assert "by `def`" in short


def test_the_first_of_two_endpoints_of_one_name_is_served(tmp_path: Path) -> None:
    catalog = found(tmp_path, {"a.py": QUEUE.format("f"), "b.py": QUEUE.format("f")})
    assert [each.file for each in catalog.endpoints] == ["a.py"]
    problem = only_problem(catalog)
    assert (problem.file, problem.endpoint) == ("b.py", "f")
    for text in ("b.py:2", "a.py:2", "another name="):
        assert text in problem.message


def test_a_file_where_the_server_answers_itself_is_refused(tmp_path: Path) -> None:
    problem = only_problem(found(tmp_path, {"health.py": QUEUE.format("f")}))
    assert problem.message.startswith("health.py:2: /health is an address of the server itself")


def test_an_endpoint_cannot_have_the_name_of_a_resource_of_the_server(tmp_path: Path) -> None:
    source = QUEUE.format("keys") + QUEUE.format("keyed")
    catalog = found(tmp_path, {"app.py": source})
    assert [each.spec.name for each in catalog.endpoints] == ["keyed"]
    problem = only_problem(catalog)
    assert "/v2/keys is an address of the server itself; give the endpoint" in problem.message
    assert problem.endpoint == "keys"


def test_a_folder_with_a_dot_in_its_name_is_refused(tmp_path: Path) -> None:
    catalog = found(tmp_path, {"v1.0/app.py": QUEUE.format("f")})
    assert only_problem(catalog).message.startswith("v1.0/app.py: a dot in a name")


def test_a_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    catalog = asyncio.run(discover(tmp_path / "nowhere"))
    assert catalog.endpoints == ()
    assert "nowhere" in only_problem(catalog).message


# The process


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_works_on_every_loop_and_leaves_no_process(
    tmp_path: Path, run: Callable[[Any], Any]
) -> None:
    code = "import subprocess, os\nchild = subprocess.Popen(['sleep', '600'])\n"
    note = "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
    write(tmp_path, {"app.py": code + note + QUEUE.format("f")})
    run(asyncio.sleep(0))  # what the loop itself keeps open
    descriptors = set(os.listdir("/dev/fd"))  # noqa: PTH208
    assert names(run(discover(tmp_path))) == ["f"]
    assert all_gone((tmp_path / "pids").read_text())
    assert set(os.listdir("/dev/fd")) == descriptors  # noqa: PTH208


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_cancelling_ends_the_process(tmp_path: Path, run: Callable[[Any], Any]) -> None:
    code = "import os, time\nopen('pids', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    write(tmp_path, {"app.py": IMPORT + "api = Endpoint(name='f')\n" + code})

    async def cancelled() -> None:
        task = asyncio.ensure_future(discover(tmp_path))
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert all_gone((tmp_path / "pids").read_text())


def test_files_of_other_threads_are_left_open(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVER], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def all_gone(pids: str) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(is_alive(int(pid)) for pid in pids.split()):
            return True
        time.sleep(0.01)
    return False


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_ctrl_c_in_the_terminal_is_the_parent_s_business(tmp_path: Path) -> None:
    code = "import os\nopen('group', 'w').write(str(os.getpgid(0)))\n"
    only(found(tmp_path, {"app.py": code + QUEUE.format("f")}))
    assert int((tmp_path / "group").read_text()) != os.getpgid(0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_discovery_needs_no_command_line_nor_server() -> None:
    program = (
        "import sys, runpod_flash.project.discovery as d\n"
        "print([n for n in ('click', 'uvicorn', 'httpx', 'pathspec') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_many_files_take_little_time(tmp_path: Path) -> None:
    head = "import absent_torch as torch\nfrom absent_transformers import pipeline\n" + IMPORT
    one = "@Endpoint(name='e{0}', cpu='cpu3c-1-2')\nasync def f{0}(x: dict[str, int]): ...\n"
    write(
        tmp_path,
        {
            f"{i % 8}_part/mod_{i}.py": head + "".join(one.format(5 * i + k) for k in range(5))
            for i in range(20)
        },
    )
    began = time.monotonic()
    catalog = asyncio.run(discover(tmp_path))
    assert len(catalog.endpoints) == 100
    assert time.monotonic() - began < 10  # it is a tenth of a second or two, on a free machine


@pytest.mark.parametrize("later", [0, 0.15])
def test_a_file_that_is_saved_while_it_is_looked_at_is_looked_at_again(
    tmp_path: Path, later: float
) -> None:
    app = tmp_path / "app.py"
    app.write_text("")  # as an editor leaves it for a moment

    async def scenario() -> Catalog:
        looking = asyncio.create_task(discover_settled(tmp_path))
        await asyncio.sleep(later)  # it has seen the empty file
        app.write_text(QUEUE.format("f"))
        return await looking

    assert [each.spec.name for each in asyncio.run(scenario()).endpoints] == ["f"]


def test_a_file_that_stays_empty_is_taken_so(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    assert asyncio.run(discover_settled(tmp_path)).endpoints == ()


async def _noticed(root: Path, name: str) -> tuple[str, ...]:
    """What is told when that file is saved."""
    looking = changes(root, stamps(root))
    # (Even before it looks for the first time: what is served was read before.)
    (root / name).write_text("x = 1\n")
    return await asyncio.wait_for(anext(looking), 20)


def test_a_link_to_nowhere_hides_no_other_file(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f".#{number}.py").symlink_to("somebody@host.1:2")  # as the locks of Emacs
    assert asyncio.run(_noticed(tmp_path, "app.py")) == ("app.py",)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are UTF-8")
def test_changes_are_noticed_beside_a_folder_that_cannot_be_watched(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    assert asyncio.run(_noticed(tmp_path, "app.py")) == ("app.py",)
