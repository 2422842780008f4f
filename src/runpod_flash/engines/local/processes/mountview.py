"""A private view of the file system for one worker, in which volumes appear at fixed paths.

Nothing is created on the machine itself and no privilege is needed where user namespaces are
allowed: the view is a tmpfs with every top-level entry of `/` and each volume bound into it.
Standard library only; `enter` must run in a single-threaded process, between fork and exec.
"""

# Plain system calls by name, for this runs between fork and exec:
# ruff: noqa: PTH100, PTH102, PTH112, PTH208, PTH211
from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 0x80000
_MNT_DETACH = 0x2
_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION = 0x20080522
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

# Only a place to mount the new root at, inside the private namespace.
_STAGE = os.path.realpath("/tmp")


def enter(mounts: Sequence[tuple[str, str]]) -> None:
    """Move this process into a view where each `(source, target)` directory is mounted.

    A target is a path directly below `/`, or a directory that exists. Raises OSError; the process
    is then of no use any more. The working directory becomes `/`.
    """
    if sys.platform != "linux":
        raise OSError(38, "only Linux has mount namespaces")
    places = [(_volume(source), _place(target)) for source, target in mounts]
    root_is_writable = os.access("/", os.W_OK)
    _unshare()
    # A slave hears of the machine's later mounts and unmounts, and tells it of none of its own.
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    # Opened before the stage is mounted over, and after unshare: only mounts of this namespace
    # can be bound.
    volumes = [(_open(source), source, target) for source, target in places]
    entries = _top_level_entries(without={target for _, target in places})
    _mount("tmpfs", _STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    for fd, path in entries:
        _copy_entry(fd, path)
    for fd, source, target in volumes:
        _bind(fd, source, target)
    if not root_is_writable:
        _mount(None, _STAGE, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _pivot(_STAGE)


def leave_privileges() -> None:
    """Give up what the new user namespace gave an ordinary user, as exec would.

    A process that goes on without exec keeps its capabilities, and may not look into itself.
    """
    if os.geteuid() != 0:
        _check(_libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)), "capset")
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def supported() -> bool:
    """Whether views can be made here; tries it in a process of its own (some 30 ms: cache it)."""
    import subprocess  # here: the supervisor loads this file and has no use for it

    if sys.platform != "linux":
        return False
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    probe = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return probe.returncode == 0


def _volume(source: str) -> str:
    if not os.path.isdir(source):
        raise NotADirectoryError(20, f"the volume {source} is not a directory")
    return os.path.realpath(source)


def _place(target: str) -> str:
    path = os.path.normpath(target)
    if not target.startswith("/") or path.strip("/") == "" or ".." in target.split("/"):
        raise ValueError(f"{target!r} is no place for a volume: give an absolute path")
    if "/" not in path.strip("/"):
        return "/" + path.strip("/")
    if not os.path.isdir(path):
        raise FileNotFoundError(2, f"there is no directory {path} to mount a volume at")
    # Links are followed here: in the new root, theirs would lead back into the old one.
    return os.path.realpath(path)


def _unshare() -> None:
    try:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        # The kernel takes a group mapping from an ordinary user only after setgroups is denied.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")


def _top_level_entries(without: set[str]) -> list[tuple[int, str]]:
    paths = ["/" + name for name in os.listdir("/")]
    return [(_open(path), path) for path in paths if path not in without]


def _copy_entry(fd: int, path: str) -> None:
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.symlink(os.readlink("", dir_fd=fd), _STAGE + path)
        os.close(fd)
    else:
        _bind(fd, path, path)


def _bind(fd: int, source: str, target: str) -> None:
    """Show in the new root, at `target`, what is open as `fd` and was found at `source`."""
    path = _STAGE + target
    with suppress(FileExistsError):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    # With submounts: without them, an ordinary user's namespace refuses (they might hide things).
    _mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND | _MS_REC)
    os.close(fd)
    if f"{_STAGE}/".startswith(f"{source.rstrip('/')}/"):
        # The stage itself is among those submounts, and covers what it is mounted over.
        copy = path + _STAGE[len(source.rstrip("/")) :]
        _check(_libc.umount2(os.fsencode(copy), _MNT_DETACH), f"unmount {copy}")


def _pivot(root: str) -> None:
    os.chdir(root)
    # Old root on top of the new one, so that no directory is needed for it; then let go of it.
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root is not known on {os.uname().machine}")
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount the old root")
    os.chdir("/")


def _open(path: str) -> int:
    flags = os.O_PATH | os.O_CLOEXEC  # type: ignore[attr-defined,unused-ignore]
    return os.open(path, flags | os.O_NOFOLLOW)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


_libc = ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    enter(())
