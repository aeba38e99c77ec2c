"""What the conformance kit says about a component, for the tests of the kit."""

import pytest


def fails(checks, name):
    """The sentence of the check `name`, which must fail."""
    (check,) = [check for check in checks if check.name == name]
    with pytest.raises(AssertionError) as caught:
        check.run()
    return str(caught.value)


def passes(checks):
    """Names of all checks, which must pass."""
    names = []
    for check in checks:
        check.run()
        names.append(check.name)
    assert len(set(names)) == len(names)
    return names
