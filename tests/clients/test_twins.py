"""What is written twice, for sync and async, is the same but for ``await``."""

from __future__ import annotations

import ast
import inspect
from types import FunctionType
from typing import Any

import pytest

from tokenmeter.clients import drive, ports, relay, seam

SYNC_NAMES = {
    "drive_async": "drive",
    "AsyncPort": "SyncPort",
    "AsyncRelay": "SyncRelay",
    "AsyncIterator": "Iterator",
    "async_send": "sync_send",
    "async_method": "sync_method",
    "wait_async": "wait",
    "aside": "here",
    "sleep_async": "sleep",
    "aread": "read",
    "aclose": "close",
    "aiter_raw": "iter_raw",
    "__aiter__": "__iter__",
}


class _Sync(ast.NodeTransformer):
    """Turns async code into the sync code that it should be the twin of."""

    def visit_Await(self, node: ast.Await) -> Any:
        return self.visit(node.value)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        self.generic_visit(node)
        fields = {name: getattr(node, name) for name in node._fields}
        return self.visit_FunctionDef(ast.FunctionDef(**fields))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        node.name = SYNC_NAMES.get(node.name, node.name)
        if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            del node.body[0]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        self.generic_visit(node)
        return ast.For(**{name: getattr(node, name) for name in node._fields})

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        self.generic_visit(node)
        node.is_async = 0
        return node

    def visit_Name(self, node: ast.Name) -> Any:
        node.id = SYNC_NAMES.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        node.attr = SYNC_NAMES.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        self.generic_visit(node)
        node.name = SYNC_NAMES.get(node.name, node.name)
        if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            del node.body[0]
        node.body = [each for each in node.body if not isinstance(each, ast.AnnAssign) or _name(each) != "ASYNC"]
        return node


def _name(assigned: ast.AnnAssign) -> str:
    return ast.unparse(assigned.target)


def as_sync(thing: FunctionType | type) -> str:
    return ast.unparse(ast.fix_missing_locations(_Sync().visit(ast.parse(inspect.getsource(thing)))))


@pytest.mark.parametrize(
    ("sync", "asynchronous"),
    [
        (drive.drive, drive.drive_async),
        (ports.SyncPort, ports.AsyncPort),
        (relay.SyncRelay, relay.AsyncRelay),
        (seam.sync_send, seam.async_send),
        (seam.sync_method, seam.async_method),
    ],
)
def test_twins_are_the_same_but_for_await(sync: Any, asynchronous: Any) -> None:
    assert as_sync(asynchronous) == as_sync(sync)


def test_the_comparison_can_fail() -> None:
    assert as_sync(ports.SyncPort) != as_sync(relay.SyncRelay)
