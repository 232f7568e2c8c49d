"""Run `tune` as `python -m tuner`, which puts the current folder first on the import path."""

from tuner.execution import python


def main() -> int:
    """Run the command, with nothing imported from the current folder."""
    try:  # noqa: SIM105  (contextlib would be imported from the current folder)
        python.leave_start_folder()
    except FileNotFoundError:
        pass  # the current folder was removed: nothing lies in it
    from tuner import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
