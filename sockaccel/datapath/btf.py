"""Offsets of kernel fields, from the running kernel's own type information (BTF).

Read with libbpf, which BCC's library brings along. Linux puts BTF at
/sys/kernel/btf/vmlinux when built with CONFIG_DEBUG_INFO_BTF.
"""

from __future__ import annotations

import ctypes
from functools import cached_property

from sockaccel.datapath.libbpf import shared_library
from sockaccel.errors import HostError

_KIND_STRUCT, _KIND_UNION = 4, 5
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
    "OFF_ULP_OPS": ("inet_connection_sock", "icsk_ulp_ops"),
    "OFF_COPIED_SEQ": ("tcp_sock", "copied_seq"),
    "OFF_RCV_NXT": ("tcp_sock", "rcv_nxt"),
    "OFF_WRITE_SEQ": ("tcp_sock", "write_seq"),
    "OFF_REQUEST_RCV_ISN": ("tcp_request_sock", "rcv_isn"),
    "OFF_REQUEST_SNT_ISN": ("tcp_request_sock", "snt_isn"),
    "OFF_REQUEST_LISTENER": ("sock_common", "skc_listener"),
    "OFF_SOCK_OPS_KERN_SK": ("bpf_sock_ops_kern", "sk"),
}
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
        offsets["OFF_SOCKET_INODE"] = types.offset("socket_alloc", "vfs_inode.i_ino")
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
