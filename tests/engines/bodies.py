"""Executors that the engine tests run; a worker process imports this module, too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from datetime import date
from hashlib import sha256
from typing import Any

from crawlfleet.core.errors import AuthError, PermanentError, QuotaError, TransientError, UsageError
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.executors.contract import Cancelled, TaskContext, TaskResult
from crawlfleet.executors.registry import task_executor
from crawlfleet.model.task_spec import Task

DAY = date(2026, 1, 31)
POLL_SECONDS = 0.005
ERRORS: dict[str, BaseException] = {
    "permanent": PermanentError("never"),
    "transient": TransientError("later", retry_after=7),
    "quota": QuotaError("used up", retry_after=60, scope="daily"),
    "auth": AuthError("refused"),
    "usage": UsageError("wrong"),
    "bug": ZeroDivisionError("division by zero"),
    "exit": SystemExit(3),
    "keyboard": KeyboardInterrupt(),
    "memory": MemoryError(),
    "cancelled": Cancelled(),
}


@task_executor("noop")
def noop(task: Task, context: TaskContext) -> None:
    return None


@task_executor("async_noop")
async def async_noop(task: Task, context: TaskContext) -> None:
    return None


@task_executor("raise")
def raise_it(task: Task, context: TaskContext) -> None:
    raise ERRORS[task.task_data["error"]]


@task_executor("async_raise")
async def async_raise(task: Task, context: TaskContext) -> None:
    raise ERRORS[task.task_data["error"]]


@task_executor("gate")
def gate(task: Task, context: TaskContext) -> dict[str, Any]:
    """Wait until the file appears."""
    while not os.path.exists(task.task_data["gate"]):
        context.sleep(POLL_SECONDS)
    return {"passed": task.id}


@task_executor("async_gate")
async def async_gate(task: Task, context: TaskContext) -> dict[str, Any]:
    while not os.path.exists(task.task_data["gate"]):
        await asyncio.sleep(POLL_SECONDS)
    return {"passed": task.id}


@task_executor("rows")
def rows(task: Task, context: TaskContext) -> TaskResult:
    figures = (Figures(DAY, campaign=f"c{number}", clicks=number) for number in range(task.task_data["rows"]))
    return TaskResult(rows=figures, replaces=ReportRange("s", "u", "a", "r", DAY, DAY))


@task_executor("async_rows")
async def async_rows(task: Task, context: TaskContext) -> TaskResult:
    return rows(task, context)


@task_executor("endless")
def endless(task: Task, context: TaskContext) -> None:
    while True:
        pass


@task_executor("kill_self")
def kill_self(task: Task, context: TaskContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task_executor("leave")
def leave(task: Task, context: TaskContext) -> None:
    os._exit(3)


@task_executor("report_self")
def report_self(task: Task, context: TaskContext) -> dict[str, Any]:
    heavy = [name for name in ("sqlalchemy", "alembic", "fastapi", "rich", "psutil") if name in sys.modules]
    return {"pid": os.getpid(), "heavy": heavy}


@task_executor("tell_environment")
def tell_environment(task: Task, context: TaskContext) -> dict[str, Any]:
    digest = sha256(context.account.token().encode()).hexdigest()
    return {"names": sorted(os.environ), "digest": digest}


@task_executor("talk")
def talk(task: Task, context: TaskContext) -> None:
    context.log.info("spoke: task=%d", task.id)


@task_executor("unpicklable")
def unpicklable(task: Task, context: TaskContext) -> TaskResult:
    figures = [Figures(DAY, extra={"function": lambda: None})]
    return TaskResult(rows=figures, replaces=ReportRange("s", "u", "a", "r", DAY, DAY))


@task_executor("shielded")
def shielded(task: Task, context: TaskContext) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return {"alive": True}


@task_executor("with_child")
def with_child(task: Task, context: TaskContext) -> None:
    """Start a program, write its process id and our own to the file, then never end."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(task.task_data["pids"] + ".new", "w", encoding="ascii") as stream:
        stream.write(f"{child.pid} {os.getpid()}")
    os.rename(task.task_data["pids"] + ".new", task.task_data["pids"])
    endless(task, context)


@task_executor("call")
def call(task: Task, context: TaskContext) -> dict[str, Any]:
    """So many calls to a source, as a transport makes them; the vendor counts them in a file, a byte for each."""
    for _ in range(task.task_data["calls"]):
        context.before_call()
        if "vendor" in task.task_data:
            with open(task.task_data["vendor"], "ab") as vendor:
                vendor.write(b".")
        context.after_answer()
    return {"calls": task.task_data["calls"]}


@task_executor("async_call")
async def async_call(task: Task, context: TaskContext) -> dict[str, Any]:
    return call(task, context)


@task_executor("bear")
def bear(task: Task, context: TaskContext) -> dict[str, Any]:
    """Say what is known of the token without showing it, and log it, as no body should."""
    token = context.account.token()
    context.log.info("the token is %s", token)
    return {
        "digest": sha256(token.encode()).hexdigest(),
        "proxy": sha256(str(context.account.proxy).encode()).hexdigest(),
    }


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads is what is tried out
        return os.fork()


def _of_the_child(child: int) -> dict[str, Any]:
    return {"child": child, "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


@task_executor("fork")
def fork(task: Task, context: TaskContext) -> dict[str, Any]:
    """Return in a child process as well as in our own, which waits for it, and asks it to end if it waits, too."""
    child = _fork()
    if child:
        for _ in range(1000 if task.task_data.get("child") == "waits" else 0):
            os.kill(child, signal.SIGTERM)  # more than once: the first may come before the child has begun
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(POLL_SECONDS)
        return _of_the_child(child)
    match task.task_data.get("child"):
        case "exits":
            sys.exit(7)
        case "raises":
            raise ZeroDivisionError
        case "calls":
            context.log.warning("said by a child")
            context.before_call()
        case "waits":
            signal.pause()
    return {"child": "returned"}


@task_executor("async_fork")
async def async_fork(task: Task, context: TaskContext) -> dict[str, Any]:
    child = _fork()
    if child:
        return _of_the_child(child)
    if task.task_data.get("child") == "awaits":
        await asyncio.sleep(3600)
    return {"child": "returned"}


@task_executor("mark")
def mark(task: Task, context: TaskContext) -> None:
    with open(task.task_data["marks"], "a", encoding="ascii") as stream:
        stream.write(f"{task.id}\n")


@task_executor("async_mark")
async def async_mark(task: Task, context: TaskContext) -> None:
    mark(task, context)


@task_executor("leave_thread")
def leave_thread(task: Task, context: TaskContext) -> None:
    """Leave a thread behind that calls the source once the file appears, and tells in another what came of it."""

    def call_later() -> None:
        while not os.path.exists(task.task_data["gate"]):
            time.sleep(POLL_SECONDS)
        try:
            context.before_call()
            word = "sent"
        except Cancelled:
            word = "cancelled"
        with open(task.task_data["word"] + ".new", "w", encoding="ascii") as stream:
            stream.write(word)
        os.rename(task.task_data["word"] + ".new", task.task_data["word"])

    threading.Thread(target=call_later, daemon=True).start()
