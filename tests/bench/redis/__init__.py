"""Our Redis transport beside a bare loop and beside other libraries: `nox -s bench -- redis`."""
