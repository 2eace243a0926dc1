"""``python -m adaptdock`` is the command ``adapt``, as launchers of several processes start it."""

from adaptdock.cli import main

raise SystemExit(main())
