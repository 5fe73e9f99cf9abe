"""Programs that a scorer must survive: what each does, and what may become of it. None is to be run but in the sandbox.

Each is asked for `square` by `TEST`, and none of them computes it. The names HOME, REPOSITORY and CANARIES (files that
lie in the home folder, the repository and /tmp) are put before every program.
"""

from __future__ import annotations

from dataclasses import dataclass

TEST = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate(7) == 49

check(square)
"""


@dataclass(frozen=True)
class Hostile:
    """One program.

    Args:
        name: what it does.
        statuses: what may become of it; several where it depends on the version of Python or of the kernel.
        source: Python.
        slow: whether it takes the whole time that it is given.
    """

    name: str
    statuses: str
    source: str
    slow: bool = False


# A function that does something harmful when it is called and returns what is wrong if that was refused.
WRONG = "\n    return -1"


def calling(body: str) -> str:
    """A program whose `square` does all this and returns a wrong number."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"import ctypes, itertools, os, shutil, signal, socket, subprocess, sys\n\ndef square(x):\n{lines}{WRONG}\n"


# Calls of the kernel that Python does not offer. One that is refused raises.
KERNEL = """
import ctypes, fcntl, os, platform
ARM = platform.machine() == "aarch64"
kernel = ctypes.CDLL(None, use_errno=True)
kernel.mmap.restype = ctypes.c_void_p
kernel.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
kernel.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
kernel.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def done(found):
    if found in (-1, None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "refused")
    return found

def place(size, flags=0x22, at=None):
    found = done(kernel.mmap(at, size, 3, flags, -1, 0))
    ctypes.memset(found, 1, size)
    return found

HUGE = 2**21
"""


def in_kernel(body: str) -> str:
    """A program whose `square` does this with `KERNEL`, and returns a wrong number."""
    return KERNEL + calling(body)


RESOURCES = (
    Hostile(
        "huge pages of which a pipe keeps a part",
        "error",
        in_kernel(
            "for pipe in [os.pipe() for _ in range(28)] * 200:\n"
            "    start = place(2 * HUGE)\n"
            "    start, all = -(-start // HUGE) * HUGE, start\n"
            "    kernel.madvise(start, HUGE, 14)\n"
            "    ctypes.memset(start, 1, HUGE)\n"
            "    page = (ctypes.c_size_t * 2)(start, 4096)\n"
            "    done(kernel.vmsplice(pipe[1], page, 1, 2))\n"
            "    done(kernel.munmap(all, 2 * HUGE))"
        ),
    ),
    Hostile("huge pages", "error", in_kernel("done(kernel.madvise(place(HUGE), HUGE, 14))")),
    Hostile("huge pages of the pool", "error", in_kernel("place(HUGE, 0x40022)")),
    Hostile(
        "shared memory of which a page is kept",
        "error",
        in_kernel("for _ in range(500):\n    done(kernel.munmap(place(2**23, 0x21) + 4096, 2**23 - 4096))"),
    ),
    Hostile("shared memory of a device", "error", calling("import mmap\nmmap.mmap(os.open('/dev/zero', 2), 2**26)")),
    Hostile("large pipes", "error", in_kernel("[fcntl.fcntl(os.pipe()[1], 1031, 2**20) for _ in range(20)]")),
    Hostile("files in pipes", "error", calling("os.splice(os.open(os.__file__, 0), os.pipe()[1], 9999)")),
    Hostile("files in sockets", "error", calling("os.sendfile(socket.socketpair()[0].fileno(), 0, 0, 99)")),
    Hostile("large buffers of sockets", "error", calling("socket.socketpair()[0].setsockopt(1, 7, 2**24)")),
    Hostile("open files in sockets", "error", calling("socket.send_fds(socket.socketpair()[0], [b'x'], [0, 1, 2])")),
    Hostile("pairs of datagrams", "error", calling("socket.socketpair(type=socket.SOCK_DGRAM)")),
    Hostile(
        "the machine's requests for input and output",
        "error",
        in_kernel("[done(kernel.syscall(0 if ARM else 206, 2**16, (ctypes.c_size_t * 1)())) for _ in range(99)]"),
    ),
    Hostile("rings of the kernel", "error", in_kernel("done(kernel.syscall(425, 4096, (ctypes.c_int * 30)()))")),
    Hostile("timers of the kernel", "error", in_kernel("done(kernel.timer_create(1, None, (ctypes.c_int * 9)()))")),
    Hostile(
        "keys of the kernel",
        "error",
        in_kernel("done(kernel.syscall(217 if ARM else 248, b'user', b'x', b'x', 1, -4))"),
    ),
    Hostile("attributes of files", "error", calling("open('a', 'w').close()\nos.setxattr('a', 'user.a', b'x')")),
    Hostile("watch the machine's folders", "error", in_kernel("done(kernel.inotify_init1(0))")),
    Hostile("notes of a folder's changes", "error", in_kernel("fcntl.fcntl(os.open('/usr/lib', 0), 1026, 63)")),
    Hostile("lease of the machine's file", "error", in_kernel("fcntl.fcntl(os.open(os.__file__, 0), 1024, 0)")),
    Hostile("lock of the machine's file", "failed", in_kernel("fcntl.flock(os.open(os.__file__, 0), 2)")),
    Hostile(
        "very many locks",
        "failed",
        in_kernel("x = os.open('a', 66)\n[fcntl.lockf(x, 2, 1, 2 * n) for n in range(20_000)]"),
    ),
    Hostile("write back the machine's files", "failed", calling("[os.sync() for _ in range(100_000)]")),
    Hostile("another processor's turn", "error", calling("os.sched_setaffinity(0, {0})")),
    Hostile("fork bomb", "error", "import os\nwhile True:\n    os.fork()"),
    Hostile(
        "fork bomb that goes on when refused",
        "timeout",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        slow=True,
    ),
    Hostile(
        "thread bomb",
        "error memory",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
    ),
    Hostile("many processes", "error", calling("[subprocess.Popen(['/bin/sleep', '99']) for _ in range(100)]")),
    Hostile("pool of processes", "error", "import multiprocessing\nmultiprocessing.Pool(8).map(print, range(8))"),
    Hostile("deep recursion", "error", "def square(x):\n    return square(x)"),
    Hostile(
        "recursion without a limit",
        "memory killed error timeout exited",
        "import sys\nsys.setrecursionlimit(10**9)\ndef square(x):\n    return square(x) + 1",
        slow=True,
    ),
    Hostile(
        "overflow of the stack in C",
        "killed memory error",
        "box = ()\nfor _ in range(10**6):\n    box = (box,)\nhash(box)",
    ),
    Hostile("memory at once", "memory", calling("bytearray(2**40)")),
    Hostile("memory bit by bit", "memory", calling("kept = []\nwhile True:\n    kept.append(bytearray(2**20))")),
    Hostile("memory by doubling a text", "memory", "text = 'x'\nwhile True:\n    text += text"),
    Hostile("memory by mmap", "error memory", calling("import mmap\n[mmap.mmap(-1, 2**26) for _ in range(99)]")),
    Hostile("memory in a constant", "memory error", "x = (b'x' * 4096) * 2**30"),
    Hostile("shared memory that no limit counts", "failed", calling("ctypes.CDLL(None).shmget(0, 2**30, 0o1600)")),
    Hostile("anonymous files", "error", calling("[os.write(os.memfd_create('x'), bytes(2**24)) for _ in range(50)]")),
    Hostile("processor time inside C", "timeout", "x = 9 ** 9 ** 9", slow=True),
    Hostile("regular expression without end", "timeout", "import re\nre.match('(a+)+b', 'a' * 60)", slow=True),
    Hostile("endless loop", "timeout", "while True:\n    pass", slow=True),
    Hostile("endless loop when called", "timeout", "def square(x):\n    while True:\n        x += 1", slow=True),
    Hostile(
        "endless loop that ignores signals",
        "timeout",
        "import signal\nfor number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass",
        slow=True,
    ),
    Hostile("sleep", "timeout", "import time\ntime.sleep(9999)", slow=True),
    Hostile(
        "lock taken twice", "timeout", calling("import threading\nx = threading.Lock()\nx.acquire()\nx.acquire()"), True
    ),
    Hostile("endless result", "memory timeout", "import itertools\ndef square(x):\n    return itertools.count()"),
    Hostile("result that contains itself", "unjudged", "def square(x):\n    x = []\n    x.append(x)\n    return x"),
    Hostile("large result", "output memory", "def square(x):\n    return 'x' * 30_000_000"),
    Hostile("endless output", "output", "while True:\n    print('spam')"),
    Hostile("endless output to the error stream", "output", "import os\nwhile True:\n    os.write(2, b'spam' * 999)"),
    Hostile("one long line", "output memory", "print('x' * 10**8)"),
    Hostile("question to a person", "error", "name = input('Your name? ')"),
    Hostile("full /tmp", "error", "open('/tmp/a', 'wb').write(bytes(2**24)); open('/tmp/b', 'wb').write(bytes(2**24))"),
    Hostile("one large file", "error", "with open('/tmp/a', 'wb') as file:\n    file.truncate(2**40)"),
    Hostile(
        "very many empty files",
        "timeout error",
        "import itertools\nfor number in itertools.count():\n    open(f'/tmp/{number}', 'w').close()",
        slow=True,
    ),
    Hostile("very many open files", "error", "kept = [open('/dev/null') for _ in range(10_000)]"),
    Hostile("text too deep for the parser", "error memory killed", "x = " + "(" * 100_000),
    Hostile("text with a null", "error", "x = 1\0"),
    Hostile("text that is not Unicode", "error", "x = '\ud800'"),
)

NETWORK = (
    Hostile("socket", "error", calling("socket.socket().connect(('10.0.0.1', 80))")),
    Hostile("datagram", "error", calling("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))")),
    Hostile("server", "error", calling("socket.create_server(('', 0))")),
    Hostile("local socket", "error", calling("socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')")),
    Hostile("download", "error", calling("import urllib.request\nurllib.request.urlopen('http://127.0.0.1/')")),
    Hostile("download by another program", "error", calling("subprocess.run(['curl', 'http://127.0.0.1/'])")),
    Hostile("socket by a system call", "failed", calling("ctypes.CDLL(None).socket(2, 1, 0)")),
)

FILES = (
    Hostile("read canaries", "error", calling("[open(path).read() for path in CANARIES]")),
    Hostile("list the repository", "error", calling("os.listdir(REPOSITORY)")),
    Hostile("delete the home folder", "failed", calling("shutil.rmtree(HOME, ignore_errors=True)")),
    Hostile("delete the repository", "failed", calling("shutil.rmtree(REPOSITORY, ignore_errors=True)")),
    Hostile(
        "delete everything",
        "failed timeout",
        calling("for name in os.listdir('/'):\n    shutil.rmtree('/' + name, ignore_errors=True)"),
        slow=True,
    ),
    Hostile("delete canaries", "error", calling("for path in CANARIES:\n    os.remove(path)")),
    Hostile("write outside", "error", calling("open('/usr/lib/x', 'w')")),
    Hostile("write into the home folder", "error", calling("os.makedirs(HOME, exist_ok=True)\nopen(HOME + '/x', 'w')")),
    Hostile("write where canaries are", "error", calling("for path in CANARIES:\n    open(path, 'w').write('gone')")),
    Hostile(
        "write through a symbolic link",
        "error",
        calling("for path in CANARIES:\n    os.symlink(path, '/tmp/link')\n    open('/tmp/link', 'a+').read()[0]"),
    ),
    Hostile("hard link", "error", calling("os.link(CANARIES[0], '/tmp/link')")),
    Hostile("path upwards", "error", calling("os.chdir('../../../..')\nopen('.' + CANARIES[0]).read()")),
    Hostile("change Python for those who come later", "error", calling("open(os.__file__, 'a').write('x')")),
    Hostile("leave a module for the checker", "failed", calling("open('decimal.py', 'w').write('1 / 0')")),
    Hostile("read the environment", "error", calling("os.environ['SHARELORA_CANARY']")),
    Hostile("read the accounts", "error", calling("open('/etc/passwd').read()")),
    Hostile("read the processes", "error", calling("open('/proc/1/environ').read()")),
    Hostile("change the kernel's settings", "error", calling("open('/proc/sys/kernel/core_pattern', 'w')")),
    Hostile("read the machine's memory", "error", calling("open('/dev/mem')")),
    Hostile("make a device", "error", calling("os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0))")),
    Hostile("mount", "failed", calling("ctypes.CDLL(None).mount(b'proc', b'/tmp', b'proc', 0, None)")),
    Hostile("new root", "error", calling("os.chroot('/tmp')")),
    Hostile("root in a namespace of its own", "failed", calling("ctypes.CDLL(None).unshare(0x10000000)")),
    Hostile("become root", "error", calling("os.setuid(0)")),
    Hostile("use a package", "error", calling("import torch")),
    Hostile("use the project", "error", calling("import sharelora")),
)

PROCESSES = (
    Hostile("kill the parent", "error", calling("os.kill(os.getppid(), signal.SIGKILL)")),
    Hostile("kill everybody", "error", calling("os.kill(-1, signal.SIGKILL)")),
    Hostile("kill the group", "error", calling("os.killpg(0, signal.SIGKILL)")),
    Hostile("stop the parent", "error", calling("os.kill(os.getppid(), signal.SIGSTOP)")),
    Hostile("kill itself", "error killed", calling("os.kill(os.getpid(), signal.SIGKILL)")),
    Hostile("abort", "killed", calling("os.abort()")),
    Hostile("crash", "killed", calling("ctypes.string_at(0)")),
    Hostile("alarm", "killed", "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(9)"),
    Hostile("leave a child", "error", calling("if os.fork() == 0:\n    import time\n    time.sleep(9999)")),
    Hostile("leave a child at the end", "error", "import atexit, os\natexit.register(os.fork)\n1 / 0"),
    Hostile("leave the session", "error", calling("os.setsid()")),
    Hostile("outlive the parent", "failed", calling("ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)")),
    Hostile("become another program", "error", calling("os.execv(sys.executable, ['python', '-c', 'pass'])")),
    Hostile("trace the parent", "failed", calling("ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)")),
    Hostile("take the parent's time", "error", calling("import resource\nresource.prlimit(os.getppid(), 0, (0, 0))")),
    Hostile("raise its own limits", "error", calling("import resource\nresource.setrlimit(0, (99, 99))")),
    Hostile("run for long before it is asked", "timeout", "import time\ntime.sleep(9)\n" + calling("pass"), slow=True),
)

# They would answer rightly if they found the test. Joined late, so that they do not find themselves.
IN_FRAMES = """
frame = sys._getframe()
while frame:
    if ''.join(['cand', 'idate(7)']) in repr((frame.f_locals, frame.f_globals)):
        return x * x
    frame = frame.f_back
"""
IN_OBJECTS = """
import gc
kept = [thing for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple))]
if any(''.join(['cand', 'idate(7)']) in str(thing) for thing in kept):
    return x * x
"""
OTHER_CODE = """
frame = sys._getframe()
while frame:
    frame.f_globals['encode'] = lambda value: 4
    frame = frame.f_back
"""
# Two ways to write to everything that is open: a text as it is, and the same as messages of the sandbox's own form.
EVERY_LINE = """
import os

def write(text):
    for line in range(64):
        try:
            os.write(line, text)
        except OSError:
            pass

def send(*texts):
    write(b"".join(len(text).to_bytes(8, "little") + text for text in texts))
"""
VERDICT = """b'ready\\n["passed", ""]\\n'"""
NAMES = """
import json
names = [["square", None], ["check", None], ["__builtins__", [{"dict": []}]]]
send(b'{"value": null}', json.dumps({"value": {"dict": names}}).encode())
"""
OTHER_BUILTINS = """
import builtins
builtins.AssertionError = builtins.Exception = None
builtins.len = builtins.abs = lambda x: 0
"""
FORGERIES = (
    Hostile("exit before the assertions", "exited", "import os\nos._exit(0)"),
    Hostile("exit when called", "exited", calling("os._exit(0)")),
    Hostile(
        "exit from a thread",
        "exited",
        calling("import threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nimport time\ntime.sleep(9)"),
    ),
    Hostile("polite exit", "error", "raise SystemExit(0)"),
    Hostile("polite exit when called", "error", calling("sys.exit()")),
    Hostile("interruption", "error", calling("raise KeyboardInterrupt")),
    Hostile("fake success in print", "failed", calling("print('ready')\nprint('[\"passed\", \"\"]', flush=True)")),
    Hostile("fake verdict on every line", "cheated", f"{EVERY_LINE}\nwrite({VERDICT})"),
    Hostile("fake verdict when called", "cheated", f"{EVERY_LINE}\ndef square(x):\n    write({VERDICT})"),
    Hostile("fake replies", "failed cheated error", EVERY_LINE + "send(*[b'{\"value\": 4}'] * 9)\n" + calling("pass")),
    Hostile("fake names for the test", "failed cheated error", EVERY_LINE + NAMES + calling("pass")),
    Hostile("fake reply that makes an object", "cheated", EVERY_LINE + 'send(b\'{"value": {"os.system": "true"}}\')'),
    Hostile(
        "fake exception that ends the test",
        "error cheated",
        EVERY_LINE
        + """send(b'{"value": null}', b'{"raised": [["sharelora.sandbox.inside.program.Lost"], "", null, []]}')""",
    ),
    Hostile("fake exception of no class", "cheated", EVERY_LINE + """send(b'{"raised": [7, "", null, {"os": []}]}')"""),
    Hostile("fake result that cannot be judged", "unjudged", EVERY_LINE + """send(b'{"unsent": "passed"}')"""),
    Hostile("fake reply of endless length", "cheated", EVERY_LINE + "write(b'\\xff' * 8)"),
    Hostile("fake reply too deep to read", "cheated", EVERY_LINE + "send(b'[' * 40_000)"),
    Hostile("cut lines", "cheated", "import os, time\nos.closerange(3, 64)\ntime.sleep(9)", slow=True),
    Hostile(
        "object that equals everything",
        "unjudged",
        "class Any:\n    def __eq__(self, other):\n        return True\ndef square(x):\n    return Any()",
    ),
    Hostile(
        "number that equals everything",
        "failed",
        "class Any(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def square(x):\n    return Any(1)",
    ),
    Hostile("lazy object", "unjudged", "def square(x):\n    return lambda: x * x"),
    Hostile("other builtins", "failed cheated", OTHER_BUILTINS + calling("pass")),
    Hostile("other check", "failed", "def check(candidate):\n    pass\n" + calling("pass")),
    Hostile(
        "other json", "failed cheated", 'import json\njson.dumps = lambda x: \'["passed", ""]\'\n' + calling("pass")
    ),
    Hostile(
        "other os.write", "timeout", "import os\nos.write = lambda line, text: len(text)\n" + calling("pass"), slow=True
    ),
    Hostile("other code in the sandbox's own functions", "failed cheated error", calling(OTHER_CODE)),
    Hostile("look for the test in the frames", "failed", calling(IN_FRAMES)),
    Hostile("look for the test in all objects", "failed", calling(IN_OBJECTS)),
    Hostile("look for the test in standard input", "failed", calling("if sys.stdin.read():\n    return x * x")),
    Hostile("trace", "failed", calling("sys.settrace(lambda *_: None)\nsys.setprofile(lambda *_: None)")),
    Hostile("success at the end", "error", "import atexit, os\natexit.register(os._exit, 0)\n1 / 0"),
    Hostile("success for all errors", "error", "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n1 / 0"),
    Hostile(
        "success when collected",
        "error",
        "import os\nclass A:\n    def __del__(self):\n        os._exit(0)\nA.a = A()\n1 / 0",
    ),
    Hostile(
        "error that cannot be described",
        "error",
        "class E(Exception):\n    def __str__(self):\n        raise self\ndef square(x):\n    raise E",
    ),
    Hostile("end of iteration", "error", calling("raise StopIteration")),
    Hostile("assertion of its own", "error", calling("raise AssertionError('passed')")),
    Hostile("nothing", "error", ""),
    Hostile("answers to some", "failed", "def square(x):\n    return 4"),
)

HOSTILE = (*RESOURCES, *NETWORK, *FILES, *PROCESSES, *FORGERIES)
