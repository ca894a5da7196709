"""Outcomes out of histories: made ones, and this project's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.outcomes.parts import DAY_S, judged, run, verdicts
from tokenmeter.errors import ConfigError
from tokenmeter.outcomes import MemorySink, link
from tokenmeter.outcomes.git import GitOptions, read_git
from tokenmeter.outcomes.trailers import read_message

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_700_000_000


class Repository:
    """A repository on which time passes, an hour a commit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.at_s = T0
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, author: str = "ann", committer: str | None = None) -> str:
        who = committer or author
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "GIT_AUTHOR_NAME": author, "GIT_AUTHOR_EMAIL": f"{author}@example.com",
            "GIT_COMMITTER_NAME": who, "GIT_COMMITTER_EMAIL": f"{who}@example.com",
            "GIT_AUTHOR_DATE": f"{self.at_s} +0000", "GIT_COMMITTER_DATE": f"{self.at_s} +0000",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        }  # fmt: skip
        ran = subprocess.run(
            ["git", "-C", str(self.path), *arguments], env=environment, capture_output=True, check=True
        )
        return ran.stdout.decode().strip()

    def commit(self, message: str, name: str = "a.txt", text: str | None = None, **who: str) -> str:
        self.at_s += 3600
        (self.path / name).write_text(text if text is not None else f"{message}\n", encoding="utf-8")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message, **who)
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, at: str = "HEAD") -> None:
        self.at_s += 60
        self.git("tag", "-a", name, "-m", name, at)

    def merge(self, branch: str, message: str, by: str) -> str:
        self.at_s += 3600
        self.git("merge", "-q", "--no-ff", "-m", message, branch, author=by)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "shop")


def test_trailers_name_the_runs_and_the_reviewer(repository: Repository) -> None:
    sha = repository.commit("Add prices\n\nAI-Run: r1\nAI-Run: r2\nReviewed-by: Bob <bob@example.com>")
    repository.commit("By hand")

    found = read_git(repository.path, GitOptions(team="blue"))
    links = link(found.outcomes, [run("r1", at_s=T0), run("r2", "bob", at_s=T0)])

    first, second = found.outcomes
    assert (first.kind, first.key, first.run, first.user) == ("commit", sha, "r1", None)
    assert (first.accepted_by, first.fold, first.team) == ("bob@example.com", f"shop:{sha}", "blue")
    assert (second.run, second.user, second.accepted_by) == (None, "ann@example.com", None)
    assert {(each.run, each.how, each.share) for each in links if each.key == sha} == {
        ("r1", "trailer", 0.5),
        ("r2", "trailer", 0.5),
    }
    marked = read_git(repository.path, GitOptions(marked_only=True))
    assert [each.key for each in marked.outcomes] == [sha]
    assert len(marked.left_out) == 1


def test_a_merge_is_one_change_with_what_it_brought(repository: Repository) -> None:
    repository.commit("Base")
    repository.git("checkout", "-q", "-b", "topic")
    for i in range(3):
        repository.commit(f"Step {i}\n\nAI-Run: r{i}", name=f"{i}.txt")
    repository.git("checkout", "-q", "main")
    merge = repository.merge("topic", "Merge pull request #7 from topic", by="bob")

    found = read_git(repository.path)

    [outcome] = [each for each in found.outcomes if each.kind == "merge"]
    assert (outcome.key, outcome.run, outcome.accepted_by) == (merge, "r0", "bob@example.com") or outcome.run in (
        "r1",
        "r2",
    )
    assert {outcome.run, *(value for name, value in outcome.attributes if name == "run")} == {"r0", "r1", "r2"}
    assert len(found.outcomes) == 2


def test_reverts_revoke_and_are_no_outcomes(repository: Repository) -> None:
    repository.commit("Base")
    bad = repository.commit("Bad", text="bad\n")
    repository.at_s += 3600
    repository.git("revert", "--no-edit", bad)
    undone = repository.git("rev-parse", "HEAD")

    found = read_git(repository.path)
    sink = MemorySink()
    found.pour(sink)
    found.pour(sink)

    assert [(each.kind, each.key) for each in found.revocations] == [("commit", bad)]
    assert undone not in {each.key for each in found.outcomes}
    assert {each.key: each.revoked_s is not None for each in sink.outcomes()}[bad]

    repository.at_s += 3600
    repository.git("revert", "--no-edit", undone)
    again = read_git(repository.path)
    assert [(each.kind, each.key) for each in again.revocations] == [("commit", bad)]
    [back] = [each for each in again.outcomes if each.key == repository.git("rev-parse", "HEAD")]
    assert back.fold == f"shop:{undone}"


def test_a_revert_by_number_finds_its_pull_request(repository: Repository) -> None:
    repository.commit("Base")
    bad = repository.commit("Faster carts (#41)", text="x\n")
    repository.commit('Revert "Faster carts (#41)" (#42)\n\nReverts acme/shop#41', text="y\n")

    found = read_git(repository.path)

    assert [(each.kind, each.key) for each in found.revocations] == [("merge", bad)]


def test_tags_are_deployments_and_an_older_one_is_a_rollback(repository: Repository) -> None:
    first = repository.commit("One\n\nAI-Run: r1")
    repository.tag("deploy/1")
    repository.commit("Two\n\nAI-Run: r2", text="2\n")
    repository.commit("Three\n\nAI-Run: r3", text="3\n")
    repository.tag("deploy/2")
    repository.tag("v9")
    repository.tag("deploy/3", first)

    found = read_git(repository.path, GitOptions(deployments="deploy/*"))

    deployed = [each for each in found.outcomes if each.kind == "deployment"]
    assert [each.key for each in deployed] == ["shop#deploy/1", "shop#deploy/2"]
    assert [(each.key, each.why) for each in found.revocations] == [("shop#deploy/2", "rolled back by deploy/3")]
    runs = [run(f"r{i}", at_s=T0) for i in (1, 2, 3)]
    outcomes = [each for each in found.outcomes if each.revoked_s is None]
    counted = judged(outcomes, runs)
    assert sum(each.micros for each in counted.values()) == round(2e6 * 0.95)
    assert list(verdicts(counted).values()).count("counted") == 2


def test_lines_that_still_stand(repository: Repository) -> None:
    repository.commit("Base", name="base.txt")
    kept = repository.commit("Kept", name="kept.txt", text="a\nb\nc\nd\n")
    half = repository.commit("Half", name="half.txt", text="a\nb\nc\nd\n")
    gone = repository.commit("Gone", name="gone.txt", text="x\ny\n")
    repository.git("rm", "-q", "gone.txt")
    repository.git("mv", "kept.txt", "moved.txt")
    repository.commit("Rework", name="half.txt", text="a\nb\nC\nD\n")
    repository.at_s += 30 * DAY_S
    young = repository.commit("Young", name="young.txt")

    found = read_git(repository.path, GitOptions(stand_days=7, now_s=repository.at_s + 60.0))

    weights = {each.key: each.weight for each in found.outcomes}
    assert (weights[kept], weights[half], weights[gone]) == (0.1, 0.05, 0.0)
    assert young not in weights
    assert [(each.key, each.why) for each in found.revocations] == [(gone, "none of its 2 lines stood after 7 days")]


def test_messages_of_all_sorts_are_read(repository: Repository) -> None:
    nasty = "Ünïcode \u2028 \x01 %H %x00 subject\n\nAI-Run:\nAI-Run:   spaced run  \nAI-Run: " + "x" * 300
    sha = repository.commit(nasty, author='O\'Neil "x" ; rm -rf', name="wéird\tname.txt")

    [found] = read_git(repository.path).outcomes

    assert (found.key, found.run) == (sha, "spaced run")
    assert len(read_git(repository.path, GitOptions(stand_days=1, now_s=T0 * 2.0)).outcomes) == 1


def test_what_is_no_repository_says_so(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        read_git(tmp_path / "none")
    with pytest.raises(ConfigError, match="git rev-parse failed"):
        read_git(tmp_path)
    repository.commit("One")
    with pytest.raises(ConfigError, match="git rev-parse failed"):
        read_git(repository.path, GitOptions(branch="--output=/tmp/x"))


@pytest.mark.parametrize(
    ("line", "assisted"),
    [
        ("Co-authored-by: Claude <noreply@anthropic.com>", True),
        ("Co-Authored-By: Copilot <223556219+Copilot@users.noreply.github.com>", True),
        ("Co-authored-by: dependabot[bot] <x@users.noreply.github.com>", True),
        ("Co-authored-by: Claudia Reyes <claudia@example.com>", False),
        ("AI-Run: 17", True),
        ("Signed-off-by: Ann", False),
    ],
)
def test_a_co_author_that_is_a_program_marks_a_commit(line: str, assisted: bool) -> None:
    assert read_message(f"Subject\n\nBody\n\n{line}\n").assisted is assisted


def test_this_projects_own_history(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout with a history")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--local", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    found = read_git(clone)
    assert len(found.outcomes) >= 10
    assert {each.source for each in found.outcomes} == {"git"}

    last = found.outcomes[-1].key
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    parents = subprocess.run(
        ["git", "-C", str(clone), "rev-list", "--parents", "-n", "1", last], check=True, capture_output=True, text=True
    )
    merged = ("-m", "1") if len(parents.stdout.split()) > 2 else ()
    revert = ["git", "-C", str(clone), *identity, "revert", "--no-edit", *merged, last]
    subprocess.run(revert, check=True, capture_output=True)
    after = read_git(clone)

    before = {(each.kind, each.key) for each in found.revocations}
    assert {(each.kind, each.key) for each in after.revocations} - before == {(found.outcomes[-1].kind, last)}
    assert {each.key for each in after.outcomes} == {each.key for each in found.outcomes}
