"""Run untrusted programs, and judge whether they are right.

    require_sandbox()                                             # before long work: does it work here?
    run_program("def double(x): return 2 * x", "assert double(2) == 4").passed
    run_many([(source, test), ...])                               # in order, several at a time

A sandbox (`bubblewrap`, or the weaker `rlimits`, which must be asked for by name) holds two processes: the *checker*
with the test and the verdict, and the process of the *program*, with nothing else in it. The test's calls of the
program go over a pipe as plain data, and so do the results (`inside.wire`). At the verdict, at the time limit, or after
too much output, everything in it is killed.

Guaranteed against harm, in the mode `bubblewrap` and unless the kernel or bubblewrap has a bug:

- The program reaches no network, no user's files, no other process, and no environment variable.
- It can write only to its own /tmp, which is in memory and limited in size.
- It starts no process and sends no signal; nothing of it remains afterwards.
- It makes no system call but those that honest programs need (`system_calls`). It locks no file of the machine, writes
  nothing back to its disks, and takes nothing that all programs have in common, such as watches and requests.
- It gets no more time, memory, threads, files and output than `Limits` allows. The kernel's own memory for it, such as
  that for empty files and for tables of pages, is limited where control groups can be made (`cgroups`), else by time.

The mode `rlimits` does not protect files; its docstring lists what it does.

Guaranteed against forgery, with a test and in the mode `bubblewrap`: the program passes only if its functions return
what the test asks for, whatever it does in its own interpreter. It can replace `assert`, the `==` of its objects,
builtins, `sys.exit`, frames or the sandbox's own code: the test is in another process, and was never in the program's
memory. The checker accepts only numbers, text and plain containers, and the only `AssertionError` that counts as the
test's is one that the checker itself raised. What remains possible is to know the answers instead of solving the task.

Not guaranteed:

- Without a test (`test=None`) a program passes if it runs to its end; one that attacks its own interpreter can fake
  that.
- In the mode `rlimits` a program can look for the checker among the processes of its user.
- A test is only as strong as it is: if it calls a helper that the program defines, the program's helper answers.

Different from running program and test as one text, as others do: arguments and results are copies; a builtin that the
program redefines is redefined only for the program; installed packages cannot be imported. A test that needs an object
of the program's own class, or a function as an argument or a result, cannot judge it: the status is `unjudged`.

May import: support. Begin with `running`, then `inside.checker`.
"""

from __future__ import annotations

from sharelora.sandbox.isolation import Limits as Limits
from sharelora.sandbox.running import BUBBLEWRAP as BUBBLEWRAP
from sharelora.sandbox.running import MODES as MODES
from sharelora.sandbox.running import RLIMITS as RLIMITS
from sharelora.sandbox.running import STATUSES as STATUSES
from sharelora.sandbox.running import UNJUDGED as UNJUDGED
from sharelora.sandbox.running import Outcome as Outcome
from sharelora.sandbox.running import require_sandbox as require_sandbox
from sharelora.sandbox.running import run_many as run_many
from sharelora.sandbox.running import run_program as run_program
