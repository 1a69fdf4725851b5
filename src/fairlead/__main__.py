"""`python -m fairlead` is the command line."""

from fairlead.app.cli import main

raise SystemExit(main())
