"""Results at an address say the same as in a directory; what cannot be read is said in words."""

import http.server
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import partial

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.errors import InputError
from ksm_analysis.results import location

fsspec = pytest.importorskip("fsspec")
KEY, SECRET = "testing-key", "testing-secret-0123456789"
TIMEOUT = 120
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def results(write_run):
    for repetition in (1, 2):
        path = write_run(guests=1, repetition=repetition)
    return path.parent


def said(capsys, *words):
    """Return exit status, output and errors of a command."""
    status = main([*map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start a server of S3 on loopback; return its address."""
    pytest.importorskip("s3fs")
    pytest.importorskip("nanio")
    data, port = tmp_path_factory.mktemp("s3"), free_port()
    words = ["serve", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
    program = [sys.executable, "-c", "from nanio.cli import main; main()", *words]
    log = (data.parent / "server.log").open("w")
    with subprocess.Popen(program, env=environment, stdout=log, stderr=log) as running:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                DIRECTLY.open(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        running.terminate()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """Let s3fs find the server, and credentials; return a file system with a bucket."""
    endpoint = server
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    system = fsspec.filesystem("s3")
    if not system.exists("bucket"):
        system.mkdir("bucket")
    return system


def test_results_in_a_bucket_say_the_same(results, bucket, capsys, tmp_path):
    there = "s3://bucket/deep/" + results.name
    bucket.put(str(results), there, recursive=True)

    for words in (["summary", "--csv"], ["answer", "--json"], ["recommend", "--json"]):
        assert said(capsys, words[0], there, words[1]) == said(capsys, words[0], results, words[1])
    assert said(capsys, "compare", results, there, "--json")[0] == 0
    assert said(capsys, "report", there, "-o", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_only_what_is_new_is_fetched(results, bucket, monkeypatch, capsys):
    there = "s3://bucket/again/" + results.name
    bucket.put(str(results), there, recursive=True)
    fetched = []
    fetch = location._fetch
    monkeypatch.setattr(
        location, "_fetch", lambda s, path, *more: (fetched.append(path), fetch(s, path, *more))
    )
    copy = location.local(there)
    everything = len(fetched)
    runs = sorted(path.name for path in copy.iterdir() if path.is_dir())
    assert everything == sum(path.is_file() for path in results.rglob("*.json*"))

    assert said(capsys, "summary", there)[0] == 0
    assert [*(copy / runs[1]).glob("*.parquet")]  # made here
    assert location.local(there) == copy
    assert len(fetched) == everything

    bucket.pipe(f"{there}/{runs[0]}/events.jsonl", b"{}\n")
    for path in bucket.find(f"{there}/{runs[1]}"):
        bucket.rm_file(path)
    bucket.invalidate_cache()
    location.local(there)
    assert fetched[everything:] == [f"bucket/again/{results.name}/{runs[0]}/events.jsonl"]
    assert (copy / runs[0] / "events.jsonl").read_bytes() == b"{}\n"
    assert not (copy / runs[1]).exists()


def test_a_bucket_that_is_not_there_and_wrong_credentials_are_said(bucket, monkeypatch):
    with pytest.raises(InputError, match="no such"):
        location.local("s3://no-such-bucket/results")
    with pytest.raises(InputError, match="no such"):
        location.local("s3://bucket/no-such-results")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(InputError, match="not allowed") as found:
        location.local("s3://bucket/results")
    assert "wrong-secret" not in str(found.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="not allowed"):
        location.local("s3://bucket/results")


def test_a_server_that_does_not_answer_is_said(bucket, monkeypatch):
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        location.local("s3://bucket/results")


class Torn(http.server.SimpleHTTPRequestHandler):
    """Lists and sends files, but cuts off samples in the middle while `cut` is true.

    It does not find the directory `lost`.
    """

    cut = True
    lost = ""

    def list_directory(self, path):
        if Torn.lost and Torn.lost in self.path:
            return self.send_error(404)
        return super().list_directory(path)

    def copyfile(self, source, outputfile):
        content = source.read()
        half = Torn.cut and self.path.endswith("samples.jsonl")
        outputfile.write(content[: len(content) // 2] if half else content)

    def log_message(self, *words):
        pass


def test_a_connection_that_is_lost_leaves_no_half_file_and_can_be_continued(results, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Torn, "cut", True)
    handler = partial(Torn, directory=results.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://user:secret@127.0.0.1:{server.server_port}/{results.name}"
        with pytest.raises(InputError, match="try again") as found:
            location.local(there)
        assert "secret" not in str(found.value)
        kept = [*location.cache().rglob("*")]
        assert not [path for path in kept if path.name.endswith((".part", "samples.jsonl"))]

        monkeypatch.setattr(Torn, "cut", False)
        copy = location.local(there)
        monkeypatch.setattr(Torn, "lost", "r2")
        with pytest.raises(InputError, match="no such"):
            location.local(there)
        server.shutdown()
    with pytest.raises(InputError, match="cannot be read"):
        location.local(there)
    for path in results.rglob("*.json*"):
        assert (copy / path.relative_to(results)).read_bytes() == path.read_bytes()


def test_other_file_systems_are_read_too(results, capsys):
    memory = fsspec.filesystem("memory")
    memory.put(str(results), "/in-memory/" + results.name, recursive=True)
    expected = said(capsys, "summary", results, "--csv")

    for there in (f"file://{results}", f"memory://in-memory/{results.name}"):
        assert said(capsys, "summary", there, "--csv") == expected


def test_a_full_disk_is_no_error_of_the_server(results):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(InputError, match=r"cache.*cannot be written: File too large"):
            location.local(f"file://{results}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_not_results_is_not_copied(results, tmp_path, cache):
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep/data.json").write_text("{}")
    with pytest.raises(InputError, match=rf"^file://{other}: no runs here"):
        location.local(f"file://{other}")
    assert not cache.exists()

    run = next(results.glob("*/run.json")).parent
    (run / "census.trace").write_bytes(b"large")
    (run / "deep").mkdir()
    (run / "deep/other.json").write_text("{}")
    (results / "notes").mkdir()
    (results / "notes/other.json").write_text("{}")
    names = {path.name for path in location.local(f"file://{results}").rglob("*")}
    assert not names & {"census.trace", "deep", "notes"}


def test_empty_names_in_paths_are_left_out(results, capsys):
    memory, there = fsspec.filesystem("memory"), "/in-memory/doubled/" + results.name
    memory.put(str(results), there, recursive=True)
    memory.pipe(f"{there}//b/run.json", b"{}")
    copy = location.local(f"memory:/{there}")

    assert "empty name" in capsys.readouterr().err
    assert not (copy / "b").exists()


def test_an_address_that_is_given_twice_is_said(results, capsys):
    there = f"file://{results}"
    status, _, error = said(capsys, "answer", there, there + "/")
    assert (status, error.startswith(f"{there}: given twice")) == (2, True), error


def test_bad_addresses_are_said(results, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for there, words in (
        ("s3://", "s3://: names no directory"),
        ("file://", "names no directory"),
        ("file:///", "names no directory"),
        ("http://user:secret@[x/y", "http://[x/y: not an address"),
        ("gibberish://bucket/results", "gibberish:// is not known"),
        (f"file://{results}-that-is-not-there", "no such"),
    ):
        status, _, error = said(capsys, "summary", there)
        assert (status, words in error) == (2, True), error
    status, _, error = said(capsys, "report", f"file://{results}")
    assert (status, "use -o" in error) == (2, True)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"ksm-testbed\[remote\]"):
        location.local("s3://bucket/results")
