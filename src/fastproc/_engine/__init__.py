"""What runs for all managers of a program: supervisors, their threads, live processes, fork and exit."""
