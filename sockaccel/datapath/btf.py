"""Offsets of kernel fields, from the running kernel's own type information (BTF).

Read with libbpf, which BCC's library brings along. Linux puts BTF at
/sys/kernel/btf/vmlinux when built with CONFIG_DEBUG_INFO_BTF.
"""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from sockaccel.datapath.libbpf import shared_library
from sockaccel.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

_KIND_STRUCT, _KIND_UNION, _KIND_ENUM, _KIND_TYPEDEF = 4, 5, 6, 8
_KIND_MODIFIERS = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
_BITFIELD_OFFSET_MASK = 0xFFFFFF


class _Type(ctypes.Structure):
    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size_or_type", ctypes.c_uint32),
    )

    @property
    def kind(self) -> int:
        return int(self.info >> 24) & 0x1F

    @property
    def length(self) -> int:
        return int(self.info) & 0xFFFF

    @property
    def is_bitfield_layout(self) -> bool:
        return bool(self.info >> 31)


class _Member(ctypes.Structure):
    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    )


class _Enumerator(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


class KernelTypes:
    """The types of the running kernel."""

    def __init__(self) -> None:
        lib = shared_library()
        lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        lib.btf__find_by_name_kind.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
        lib.btf__type_by_id.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        self._lib = lib

    @cached_property
    def _btf(self) -> int:
        btf = self._lib.btf__load_vmlinux_btf()
        if not btf:
            raise HostError(
                "cannot read the kernel's types: no /sys/kernel/btf/vmlinux",
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF (Debian's are)",
            )
        return int(btf)

    def offset(self, struct: str, path: str) -> int:
        """Return the offset in bytes of a field, such as ``("sock", "sk_backlog.rmem_alloc")``."""
        return self.bit_offset(struct, path) // 8

    def bit_offset(self, struct: str, path: str) -> int:
        """Return the offset of a field in bits.

        Anonymous structures and unions are looked through.

        Raises:
            KeyError: this kernel has no such structure or field.

        """
        type_id = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _KIND_STRUCT)
        if type_id < 0:
            raise KeyError(struct)
        total = 0
        for name in path.split("."):
            found = self._member(type_id, name.encode())
            if found is None:
                raise KeyError(f"{struct}.{path}")
            bits, type_id = found
            total += bits
        return total

    def first_offset(self, fields: Iterable[tuple[str, str]]) -> int:
        """Return the offset in bytes of the first of these fields that there is.

        Raises:
            KeyError: there is none.

        """
        for struct, path in fields:
            with suppress(KeyError):
                return self.offset(struct, path)
        raise KeyError(f"{struct}.{path}")

    def enumerator(self, enum: str, name: str) -> int:
        """Return the value of an enumerator, which is not negative.

        Raises:
            KeyError: this kernel has no such enumeration or enumerator.

        """
        type_id = self._lib.btf__find_by_name_kind(self._btf, enum.encode(), _KIND_ENUM)
        if type_id < 0:
            raise KeyError(enum)
        kernel_type, address = self._type(type_id)
        items = (_Enumerator * kernel_type.length).from_address(address + ctypes.sizeof(_Type))
        for item in items:
            if self._lib.btf__name_by_offset(self._btf, item.name_off) == name.encode():
                return int(item.value)
        raise KeyError(f"{enum}.{name}")

    def tracepoint(self, name: str) -> int | None:
        """Return the id that a program for a raw tracepoint names it by, None without it."""
        typedef = f"btf_trace_{name}".encode()
        type_id = self._lib.btf__find_by_name_kind(self._btf, typedef, _KIND_TYPEDEF)
        return int(type_id) if type_id > 0 else None

    def _type(self, type_id: int) -> tuple[_Type, int]:
        address = self._lib.btf__type_by_id(self._btf, type_id)
        return _Type.from_address(address), address

    def _member(self, type_id: int, name: bytes) -> tuple[int, int] | None:
        kernel_type, address = self._type(type_id)
        while kernel_type.kind in _KIND_MODIFIERS:
            kernel_type, address = self._type(kernel_type.size_or_type)
        if kernel_type.kind not in (_KIND_STRUCT, _KIND_UNION):
            return None
        members = (_Member * kernel_type.length).from_address(address + ctypes.sizeof(_Type))
        for member in members:
            bits = member.offset
            if kernel_type.is_bitfield_layout:
                bits &= _BITFIELD_OFFSET_MASK
            if member.name_off:
                if self._lib.btf__name_by_offset(self._btf, member.name_off) == name:
                    return bits, member.type
            elif inner := self._member(member.type, name):
                return bits + inner[0], inner[1]
        return None


_REQUIRED = {
    "OFF_COOKIE": ("sock_common", "skc_cookie"),
    "OFF_FAMILY": ("sock_common", "skc_family"),
    "OFF_STATE": ("sock_common", "skc_state"),
    "OFF_NUM": ("sock_common", "skc_num"),
    "OFF_DPORT": ("sock_common", "skc_dport"),
    "OFF_DADDR": ("sock_common", "skc_daddr"),
    "OFF_RCV_SADDR": ("sock_common", "skc_rcv_saddr"),
    "OFF_PROT": ("sock_common", "skc_prot"),
    "OFF_PROT_MEMORY_PRESSURE": ("proto", "memory_pressure"),
    "OFF_RMEM_ALLOC": ("sock", "sk_backlog.rmem_alloc"),
    "OFF_RCVBUF": ("sock", "sk_rcvbuf"),
    "OFF_USERLOCKS": ("sock", "sk_userlocks"),
    "OFF_SLOCK": ("sock", "sk_lock.slock"),
    "OFF_BACKLOG_LEN": ("sock", "sk_backlog.len"),
    "OFF_RECEIVE_QUEUE_LEN": ("sock", "sk_receive_queue.qlen"),
    "OFF_PSOCK_REFCNT": ("sk_psock", "refcnt"),
    "OFF_PSOCK_ASIDE_LEN": ("sk_psock", "ingress_skb.qlen"),
    "OFF_USER_DATA": ("sock", "sk_user_data"),
    "OFF_SOCKET": ("sock", "sk_socket"),
    "OFF_DEFER_ACCEPT": ("inet_connection_sock", "icsk_accept_queue.rskq_defer_accept"),
    "OFF_ULP_OPS": ("inet_connection_sock", "icsk_ulp_ops"),
    "OFF_COPIED_SEQ": ("tcp_sock", "copied_seq"),
    "OFF_RCV_NXT": ("tcp_sock", "rcv_nxt"),
    "OFF_RCV_WUP": ("tcp_sock", "rcv_wup"),
    "OFF_RCV_WND": ("tcp_sock", "rcv_wnd"),
    "OFF_NET": ("sock_common", "skc_net.net"),
    "OFF_NET_TCP_RMEM": ("net", "ipv4.sysctl_tcp_rmem"),
    "OFF_SND_UNA": ("tcp_sock", "snd_una"),
    "OFF_WRITE_SEQ": ("tcp_sock", "write_seq"),
    "OFF_REQUEST_RCV_ISN": ("tcp_request_sock", "rcv_isn"),
    "OFF_REQUEST_SNT_ISN": ("tcp_request_sock", "snt_isn"),
    "OFF_REQUEST_LISTENER": ("sock_common", "skc_listener"),
    "OFF_SOCK_OPS_KERN_SK": ("bpf_sock_ops_kern", "sk"),
    "OFF_BYTES_ACKED": ("tcp_sock", "bytes_acked"),
    "OFF_TASK_FS": ("task_struct", "fs"),
    "OFF_FS_PWD_DENTRY": ("fs_struct", "pwd.dentry"),
    "OFF_DENTRY_INODE": ("dentry", "d_inode"),
    "OFF_INODE_NUMBER": ("inode", "i_ino"),
    "OFF_TASK_FLAGS": ("task_struct", "flags"),
    "OFF_TSFLAGS": ("sock", "sk_tsflags"),
    "OFF_URG_DATA": ("tcp_sock", "urg_data"),
    "OFF_SHUTDOWN": ("sock", "sk_shutdown"),
    "OFF_PEEK_OFF": ("sock", "sk_peek_off"),
    "OFF_RCVLOWAT": ("sock", "sk_rcvlowat"),
    "OFF_SK_FLAGS": ("sock_common", "skc_flags"),
    "OFF_SOCKET_FILE": ("socket", "file"),
    "OFF_FILE_FLAGS": ("file", "f_flags"),
    "OFF_FILE_INODE": ("file", "f_inode"),
    "OFF_FILE_DENTRY": ("file", "f_path.dentry"),
    "OFF_DENTRY_NAME": ("dentry", "d_name.name"),
    "OFF_INODE_SIZE": ("inode", "i_size"),
    "OFF_TASK_MM": ("task_struct", "mm"),
    "OFF_MM_EXE_FILE": ("mm_struct", "exe_file"),
    "OFF_MM_ARG_START": ("mm_struct", "arg_start"),
    "OFF_MM_ARG_END": ("mm_struct", "arg_end"),
}
# Fields that were renamed: the newest name first.
_RENAMED = {
    "OFF_INODE_MTIME_SEC": (
        ("inode", "i_mtime_sec"),  # 6.11
        ("inode", "__i_mtime.tv_sec"),  # 6.7
        ("inode", "i_mtime.tv_sec"),
    ),
    "OFF_INODE_MTIME_NSEC": (
        ("inode", "i_mtime_nsec"),
        ("inode", "__i_mtime.tv_nsec"),
        ("inode", "i_mtime.tv_nsec"),
    ),
}
# MSG_ZEROCOPY and SO_TIMESTAMP[NS]: what they promise does not come for redirected bytes.
_UNUSUAL_SOCKET_FLAGS = ("SOCK_ZEROCOPY", "SOCK_RCVTSTAMP")
_OPTIONAL = {
    "OFF_IS_MPTCP": ("tcp_sock", "is_mptcp"),  # CONFIG_MPTCP
    "OFF_V6_DADDR": ("sock_common", "skc_v6_daddr"),  # CONFIG_IPV6
    "OFF_V6_RCV_SADDR": ("sock_common", "skc_v6_rcv_saddr"),
}


def field_offsets() -> dict[str, int]:
    """Return the offsets that bpf/ reads kernel memory at, by the name used there.

    Raises:
        HostError: the kernel has no BTF, or lacks a field that is needed.

    """
    types = KernelTypes()
    try:
        offsets = {name: types.offset(*field) for name, field in _REQUIRED.items()}
        offsets |= {name: types.first_offset(fields) for name, fields in _RENAMED.items()}
        offsets["SOCK_ZEROCOPY_BIT"] = types.enumerator("sock_flags", "SOCK_ZEROCOPY")
        offsets["UNUSUAL_SK_FLAGS"] = sum(
            1 << types.enumerator("sock_flags", flag) for flag in _UNUSUAL_SOCKET_FLAGS
        )
        offsets["OFF_SOCKET_INODE"] = types.offset("socket_alloc", "vfs_inode.i_ino")
        inq = types.bit_offset("tcp_sock", "recvmsg_inq")
        offsets |= {"OFF_RECVMSG_INQ": inq // 8, "RECVMSG_INQ_MASK": 1 << inq % 8}
        nonagle = types.bit_offset("tcp_sock", "nonagle")
        # TCP_NAGLE_OFF is bit 0 (include/net/tcp.h).
        offsets |= {"OFF_NONAGLE": nonagle // 8, "NAGLE_OFF": 1 << nonagle % 8}
        # SOCK_RCVBUF_LOCK is bit 1 of what is a bit field in some kernels, a byte in others.
        offsets["RCVBUF_LOCK"] = 2 << types.bit_offset("sock", "sk_userlocks") % 8
    except KeyError as error:
        raise HostError(
            f"cannot use this kernel: it has no field {error}", "report it with `uname -r`"
        ) from error
    for name, field in _OPTIONAL.items():
        try:
            offsets[name] = types.offset(*field)
        except KeyError:
            continue
    return offsets


# Where a system call's number and arguments are kept, and the numbers of those that read
# (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h). A read by any
# other call, a 32-bit program's included, counts as unusual.
_SYSTEM_CALLS = {
    "x86_64": (
        {"OFF_REGS_CALL": "orig_ax", "OFF_REGS_ARG3": "dx", "OFF_REGS_ARG4": "r10"},
        {
            "NR_READ": 0,
            "NR_READV": 19,
            "NR_RECVFROM": 45,
            "NR_RECVMSG": 47,
            "NR_SPLICE": 275,
            "NR_RECVMMSG": 299,
            "NR_IO_URING_ENTER": 426,
        },
    ),
    "aarch64": (
        {"OFF_REGS_CALL": "syscallno", "OFF_REGS_ARG3": "regs", "OFF_REGS_ARG4": "regs"},
        {
            "NR_READ": 63,
            "NR_READV": 65,
            "NR_SPLICE": 76,
            "NR_RECVFROM": 207,
            "NR_RECVMSG": 212,
            "NR_RECVMMSG": 243,
            "NR_IO_URING_ENTER": 426,
        },
    ),
}
_REGISTER_IN_ARRAY = {"aarch64": {"OFF_REGS_ARG3": 2 * 8, "OFF_REGS_ARG4": 3 * 8}}


def system_calls(machine: str = platform.machine()) -> dict[str, int] | None:
    """Return what bpf/reader.c needs to know of this CPU's system calls, None if nobody knows."""
    if machine not in _SYSTEM_CALLS:
        return None
    registers, numbers = _SYSTEM_CALLS[machine]
    types = KernelTypes()
    try:
        offsets = {name: types.offset("pt_regs", field) for name, field in registers.items()}
    except KeyError:
        return None
    for name, within in _REGISTER_IN_ARRAY.get(machine, {}).items():
        offsets[name] += within
    return offsets | numbers | {"O_NONBLOCK_FLAG": os.O_NONBLOCK}
