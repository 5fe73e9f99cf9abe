"""Running programs that nobody has read, and telling whether they are right.

    require_sandbox()                                             # before long work: does it work here?
    run_program("def double(x): return 2 * x", "assert double(2) == 4").passed
    run_many([(source, test), ...])                               # in order, several at a time

**How.** A sandbox (`bubblewrap`, or the weaker `rlimits`, which must be asked for by name) holds two processes. The
*checker* has the test and the verdict; the *program's* process has the program and nothing else. The test's calls of
the program go over a pipe as plain data, and so do the results (`inside.wire`). When one of them says that it is done,
the clock runs out, or too much is printed, all is killed.

**Harm: what is guaranteed** in the mode `bubblewrap`, as far as the kernel and bubblewrap have no faults: the program
reaches no network, no file of anybody's, no other process and no environment variable; it can write to a /tmp of its
own alone, which lies in memory and is bounded; it starts no process, sends no signal, and nothing of it is left
afterwards; it has no more time, memory, threads, files and output than `Limits` says. Bounded by time alone: the
kernel's own memory for empty files and the like. In the mode `rlimits` files are not protected; its docstring lists
what is.

**Forgery: what is guaranteed** with a test, in the mode `bubblewrap`: the program passes only if its functions return
what the test asks for, whatever it does in its own interpreter. It can replace `assert`, `==` of its objects, builtins,
`sys.exit`, frames or the sandbox's own code as much as it likes: the test is not there, is not even in its memory, and
the process where it is takes nothing but numbers, texts and plain containers, and raises no alarm that it has not found
itself. What a program may do is to answer as the test wants without solving the task, by knowing the answers.

**Best effort**: without a test (`test=None`) a program passes that runs to its end, and one that attacks its own
interpreter can claim that. In the mode `rlimits` a program can look for the checker among the processes of its user.
A test is as strong as it is: where it calls a helper that the program defines, it is the program's helper that answers.

**What differs from running program and test as one text**, as others do: arguments and results are copies; an object of
the program's own class, or a function, cannot be returned to a test, and fails; a builtin that the program redefines is
redefined for itself alone; installed packages cannot be imported.

May import: support. Begin with `running`, then `inside.checker`.
"""

from __future__ import annotations

from sharelora.sandbox.isolation import Limits as Limits
from sharelora.sandbox.running import BUBBLEWRAP as BUBBLEWRAP
from sharelora.sandbox.running import MODES as MODES
from sharelora.sandbox.running import RLIMITS as RLIMITS
from sharelora.sandbox.running import STATUSES as STATUSES
from sharelora.sandbox.running import Outcome as Outcome
from sharelora.sandbox.running import require_sandbox as require_sandbox
from sharelora.sandbox.running import run_many as run_many
from sharelora.sandbox.running import run_program as run_program
