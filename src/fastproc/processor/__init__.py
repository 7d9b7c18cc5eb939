"""The queue: tasks in a directory, run for certain, never lost, never twice at once.

from fastproc.processor import Processor

with Processor("queue") as processor:
    processor.submit(["make", "test"], id="tests")
    print(processor.run_until_empty())
"""

from .agent import AgentExecutor
from .executor import CommandExecutor, End, Executor, Refused, Run
from .logs import LogEntry
from .processor import Processor
from .retry import Backoff, RateLimit
from .task import Attempt, ExecutionResult, Priority, Task, TaskResult, TaskState
from .views import ProcessInfo, ProcessorInfo, QueueMetrics, QueueReport, QueueStatus

__all__ = [
    "AgentExecutor",
    "Attempt",
    "Backoff",
    "CommandExecutor",
    "End",
    "ExecutionResult",
    "Executor",
    "LogEntry",
    "Priority",
    "ProcessInfo",
    "Processor",
    "ProcessorInfo",
    "QueueMetrics",
    "QueueReport",
    "QueueStatus",
    "RateLimit",
    "Refused",
    "Run",
    "Task",
    "TaskResult",
    "TaskState",
]
