"""A filter of system calls as a classic BPF program, which needs no library.

Refused are calls that reach the kernel beyond what a program needs, or memory that no limit counts. All else is
allowed, so that any runtime works. Sources: man seccomp(2), the kernel's syscall tables, the filters of container
engines.
"""

import errno
import platform
import struct

_X86_64, _AARCH64 = "x86_64", "aarch64"
_AUDIT_ARCH = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}
_REFUSED = """
ptrace 101 117  process_vm_readv 310 270  process_vm_writev 311 271  kcmp 312 272  pidfd_getfd 438 438
process_madvise 440 440  userfaultfd 323 282  bpf 321 280  perf_event_open 298 241  syslog 103 116
add_key 248 217  request_key 249 218  keyctl 250 219
io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427
mount 165 40  umount2 166 39  pivot_root 155 41  chroot 161 51  unshare 272 97  setns 308 268
open_tree 428 428  move_mount 429 429  fsopen 430 430  fsconfig 431 431  fsmount 432 432  fspick 433 433
mount_setattr 442 442  open_tree_attr 467 467  name_to_handle_at 303 264  open_by_handle_at 304 265
fanotify_init 300 262
memfd_create 319 279  memfd_secret 447 447  shmget 29 194  shmat 30 196  msgget 68 186  semget 64 190  mq_open 240 180
kexec_load 246 104  kexec_file_load 320 294  init_module 175 105  finit_module 313 273  delete_module 176 106
reboot 169 142  acct 163 89  swapon 167 224  swapoff 168 225  quotactl 179 60  quotactl_fd 443 443
settimeofday 164 170  clock_settime 227 112  adjtimex 159 171  clock_adjtime 305 266
sethostname 170 161  setdomainname 171 162  iopl 172 -1  ioperm 173 -1  modify_ldt 154 -1  uselib 134 -1
"""
"""Name, number on x86_64, number on aarch64 or -1: other programs' memory, the kernel's programs, keys and rings,
mounts and namespaces, memory that belongs to no process, the machine."""
_SIGNALS = """
kill 62 129  tkill 200 130  rt_sigqueueinfo 129 138  rt_tgsigqueueinfo 297 240  pidfd_send_signal 424 424
"""
"""As above: calls that reach any process of the same user. tgkill is left, by which a program aborts itself."""
_CLONE, _CLONE3, _MMAP = (56, 220), (435, 435), (9, 222)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_SEND = ((46, 307), (211, 269))  # sendmsg and sendmmsg, which hand over open files
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of clone
_SHARED, _ANONYMOUS = 0x01, 0x20  # of mmap; the first is set in MAP_SHARED_VALIDATE, too
_AF_UNIX = 1
_X32 = 0x40000000  # system calls of the x32 ABI begin here

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

_Instruction = tuple[int, int, int, int]  # code, skipped if true, skipped if false, operand


def filter_program(*, sockets: bool, signals: bool = True, machine: str | None = None) -> bytes | None:
    """An array of struct sock_filter; None on a machine whose numbers are not known.

    sockets: whether sockets of the family AF_UNIX may be made, and open files sent; other sockets never. Pairs of
        connected sockets may.
    signals: whether processes may be sent signals.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        return None
    column = [_X86_64, _AARCH64].index(machine)
    words = (_REFUSED + _SIGNALS * (not signals)).split()
    numbers = [int(number) for number in words[1 + column :: 3] if number != "-1"]
    only_unix = ((_EQUAL, 1, 0, _AF_UNIX),)
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        _error(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        *_refuse(_CLONE3[column], errno.ENOSYS),  # its flags cannot be seen: libraries then use clone
    ]
    if machine == _X86_64:
        program += [(_AT_LEAST, 0, 1, _X32), _error(errno.ENOSYS)]
    for number in sorted(numbers) + [_SOCKET[column], *_SEND[column]] * (not sockets):
        program += _refuse(number, errno.EPERM)
    program += _refuse_when(_CLONE[column], 0, (_ANY_BIT, 0, 1, _NEW_NAMESPACES))
    # Pages shared with nobody outlive madvise(MADV_DONTNEED) but leave the resident memory that is watched.
    shared = _SHARED | _ANONYMOUS
    program += _refuse_when(_MMAP[column], 3, (_AND, 0, 0, shared), (_EQUAL, 0, 1, shared))
    for number in (_SOCKET[column], _SOCKETPAIR[column]):
        program += _refuse_when(number, 0, *only_unix)
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _refuse(number: int, error: int) -> list[_Instruction]:
    return [(_EQUAL, 0, 1, number), _error(error)]


def _refuse_when(number: int, argument: int, *test: _Instruction) -> list[_Instruction]:
    """Refuse a call by the low 32 bits of an argument; the last instruction of the test skips one to allow it."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    body = [load, *test, _error(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


def _error(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
