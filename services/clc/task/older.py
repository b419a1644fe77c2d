"""DescribeConversionTasks and DescribeExportTasks: tasks of ImportInstance, ImportVolume and CreateInstanceExportTask.

None of the three is served, so there never is a task; clients that look for one are told so as EC2 does.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import NotFound
from mallee.ec2.v1 import export_task_pb2, import_task_pb2
from services.clc.filters import FilterTable
from services.clc.tag.view import as_mapping
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_EXPORT_FILTERS = FilterTable[export_task_pb2.ExportTask](
    "ec2.DescribeExportTasks", {}, tags=lambda task: as_mapping(task.tags)
)


@use_case("ec2.DescribeConversionTasks")
async def describe_conversion_tasks(
    cloud: Cloud, call: Call, request: import_task_pb2.DescribeConversionTasksRequest
) -> import_task_pb2.DescribeConversionTasksResult:
    end_dry_run(request)
    _none_is_named(request.conversion_task_ids, "conversion", code="InvalidConversionTaskId")
    return import_task_pb2.DescribeConversionTasksResult()


@use_case("ec2.DescribeExportTasks")
async def describe_export_tasks(
    cloud: Cloud, call: Call, request: export_task_pb2.DescribeExportTasksRequest
) -> export_task_pb2.DescribeExportTasksResult:
    _EXPORT_FILTERS.matcher(request.filters)
    _none_is_named(request.export_task_ids, "export", code="InvalidExportTaskID.NotFound")
    return export_task_pb2.DescribeExportTasksResult()


def _none_is_named(task_ids: Sequence[str], kind: str, *, code: str) -> None:
    if task_ids:
        raise NotFound(f"The {kind} task ID '{task_ids[0]}' does not exist", code=code)
