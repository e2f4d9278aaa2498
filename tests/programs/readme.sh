# The commands and snippets of README.md.
exec /usr/bin/python3 "$(dirname "$0")/readme.py"
