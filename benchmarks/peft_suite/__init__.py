"""PEFT's own tests, run with ShareLoRA's configuration in the place of LoRA's: `make peft-suite`.

- `source`: the tests, from the source package of the PEFT that is installed, and what they need besides;
- `hub`: small random models in the place of those that the tests take from the model hub;
- `plugin`: what is loaded into pytest: it replaces the configuration and writes down what became of each test;
- `session`: runs pytest, once with LoRA and then with each way to share;
- `verdict`: compares the two: passed, refused with a reason, failed;
- `document`: the table; `suite`: the command that does all of it.
"""
