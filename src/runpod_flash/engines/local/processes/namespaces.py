"""What a worker sees of the machine: a view of its files, and which processes there are.

No privilege is needed where user namespaces are allowed. A view is a tmpfs with every top-level
entry of `/` and what else is wanted bound into it. Workers that are kept apart are, with all that
they start, alone in a namespace of process ids: their minder is its first process, and with that
one the system ends all others. Standard library only; everything here must run in a
single-threaded process.
"""

# Plain system calls by name, for this runs between fork and exec:
# ruff: noqa: PTH100, PTH102, PTH112, PTH116, PTH120, PTH208, PTH211
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
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_NOEXEC = 0x8
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 0x80000
_MNT_DETACH = 0x2
# What of a mount's flags a change of the others has to keep in a user namespace. `statvfs` has the
# same numbers, but for one.
_KEPT_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 0x400 | 0x800
_MS_RELATIME = 0x200000
_ST_RELATIME = 0x1000
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION = 0x20080522
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

# Only a place to mount the new root at, inside the private namespace.
_STAGE = os.path.realpath("/tmp")


def enter(mounts: Sequence[tuple[str, str, bool]]) -> None:
    """Move this process into a view with `(source, target, read_only)` directories mounted.

    A target is a path directly below `/`, or a directory that exists; one without a source is an
    empty directory there. Those that are further up come first. Raises OSError; the process is then
    of no use any more. The working directory becomes `/`.
    """
    if sys.platform != "linux":
        raise OSError(38, "only Linux has mount namespaces")
    places = [(_folder(source), _place(target), fixed) for source, target, fixed in mounts]
    places.sort(key=lambda place: place[1].count("/"))
    root_is_writable = os.access("/", os.W_OK)
    _unshare_mounts()
    # Opened before the stage is mounted over, and after unshare: only mounts of this namespace
    # can be bound.
    sources = [_open(source) if source else -1 for source, _, _ in places]
    entries = _top_level_entries(without={target for _, target, _ in places})
    _mount("tmpfs", _STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    for fd, path in entries:
        _copy_entry(fd, path)
    for fd, (source, target, fixed) in zip(sources, places, strict=True):
        _make_folder(_STAGE + target)
        if source:
            _bind(fd, source, target)
        else:
            _mount("tmpfs", _STAGE + target, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
        if fixed:
            _fix(_STAGE + target)
    if not root_is_writable:
        _mount(None, _STAGE, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _pivot(_STAGE)


def become(user: int, group: int) -> None:
    """Be that user for good, as root."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def leave_privileges() -> None:
    """Give up what the new user namespace gave an ordinary user, as exec would.

    A process that goes on without exec keeps its capabilities, and may not look into itself.
    """
    if os.geteuid() != 0:
        _check(_libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)), "capset")
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def enter_user_namespace() -> None:
    """Where this is not root, get its powers over this process's own namespaces to come."""
    if os.geteuid() == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare")
    _map_user(uid, gid)


def fork_apart() -> int:
    """As `os.fork`; the child is the first process in new namespaces of process ids and of IPC.

    Raises OSError. The caller must be a subreaper: the child's own parent is a process between.
    """
    told, tell = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            _check(_libc.unshare(_CLONE_NEWPID | _CLONE_NEWIPC), "unshare")
            child = os.fork()
        except OSError as error:
            os.write(tell, f"-{error.errno}".encode())
            os._exit(1)
        if child == 0:
            os.close(told)
            os.close(tell)
            return 0
        os.write(tell, b"%d" % child)
        os._exit(0)
    os.close(tell)
    said = os.read(told, 32)
    os.close(told)
    os.waitpid(between, 0)
    child = int(said or b"-3")
    if child < 0:
        raise OSError(-child, f"unshare: {os.strerror(-child)}")
    return child


def show_own_processes() -> int:
    """Have `/proc` show the processes of this namespace alone. Raises OSError.

    Gives a descriptor: the list of this process's children, by the ids that they have outside.
    """
    outside = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    _unshare_mounts()
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    return outside


def supported() -> bool:
    """Whether views can be made here; tries it in a process of its own (some 30 ms: cache it)."""
    return not _refusal("view")


def apart_refusal(user: tuple[int, int] | None = None) -> str:
    """Why workers cannot be kept apart here, as a phrase; empty where they can.

    `user` are the user and group that they would be.
    """
    return _refusal("apart", *map(str, user or ()))


def _refusal(*what: str) -> str:
    import subprocess  # here: the supervisor loads this file and has no use for it

    if sys.platform != "linux":
        return "only Linux has namespaces"
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), *what]
    probe = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False
    )
    if probe.returncode == 0:
        return ""
    return (probe.stderr.strip().splitlines() or ["unknown"])[-1].rpartition("] ")[2]


def _try_apart(*user: str) -> None:
    enter_user_namespace()
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl")
    child = fork_apart()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.close(show_own_processes())
    enter(())
    if user:
        become(*map(int, user))


def _folder(source: str) -> str:
    if source and not os.path.isdir(source):
        raise NotADirectoryError(20, f"the volume {source} is not a directory")
    return os.path.realpath(source) if source else ""


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


def _unshare_mounts() -> None:
    try:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        _map_user(uid, gid)
    # A slave hears of the machine's later mounts and unmounts, and tells it of none of its own.
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)


def _map_user(uid: int, gid: int) -> None:
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


def _make_folder(path: str) -> None:
    """Make a place to mount at; what it lies in on a disk belongs to whom that belongs to."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    owner = os.stat(path)
    for made in reversed(missing):
        os.mkdir(made, 0o755)
        if os.geteuid() == 0:
            os.chown(made, owner.st_uid, owner.st_gid)


def _fix(path: str) -> None:
    """Make what is mounted there read-only."""
    there = os.statvfs(path).f_flag
    kept = there & _KEPT_FLAGS | (_MS_RELATIME if there & _ST_RELATIME else 0)
    _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)


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
    if sys.argv[1] == "apart":
        _try_apart(*sys.argv[2:])
    else:
        enter(())
