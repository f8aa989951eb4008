"""The windows of Verst's benchmark by Apache Flink: 5 minutes of event time, watermark 3 hours.

Reads passages as CSV (device,event_ms,speed_ckmh; "-" without a speed) in the order of arrival,
writes one CSV row for each window, and prints one line of JSON: CPU seconds, wall seconds, greatest
resident memory of the JVM. The plan is SQL, so that all of the work is done by Flink's own runtime; Python only submits it.
A first run over few rows warms the JVM up and is left out.

Usage: tumble.py WARM_UP_DIR PASSAGES_DIR WINDOWS_DIR
"""

import json
import os
import subprocess
import sys
import time

from pyflink.table import EnvironmentSettings, TableEnvironment

SOURCE = """
CREATE TEMPORARY TABLE {name} (
    device STRING,
    event_ms BIGINT,
    speed_ckmh INT,
    event_time AS TO_TIMESTAMP_LTZ(event_ms, 3),
    WATERMARK FOR event_time AS event_time - INTERVAL '3' HOUR
) WITH (
    'connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv', 'csv.null-literal' = '-'
)
"""

SINK = """
CREATE TEMPORARY TABLE {name} (
    device STRING, start_ms BIGINT, n BIGINT, n_speed BIGINT, sum_ckmh BIGINT,
    min_ckmh INT, max_ckmh INT
) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv')
"""

QUERY = """
INSERT INTO {sink}
SELECT device, MIN(event_ms) - MOD(MIN(event_ms), 300000), COUNT(*), COUNT(speed_ckmh),
       SUM(CAST(speed_ckmh AS BIGINT)), MIN(speed_ckmh), MAX(speed_ckmh)
FROM TABLE(TUMBLE(TABLE {source}, DESCRIPTOR(event_time), INTERVAL '5' MINUTES))
GROUP BY device, window_start, window_end
"""


def jvm():
    """The process that does the work."""
    children = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "java"], capture_output=True, text=True, check=True
    )
    return int(children.stdout.split()[0])


def cpu_s(process):
    with open(f"/proc/{process}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_resident_bytes(process):
    with open(f"/proc/{process}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main():
    warm_up, passages, windows = sys.argv[1:]
    table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    config = table.get_config()
    config.set("table.local-time-zone", "UTC")
    # One task reads and counts: the order of arrival is that of the file.
    config.set("parallelism.default", "1")
    # Part files are committed with a checkpoint.
    config.set("execution.checkpointing.interval", "10 s")
    for name, path in (("few", warm_up), ("passages", passages)):
        table.execute_sql(SOURCE.format(name=name, path=path))
    for name, path in (("thrown_away", warm_up + "-windows"), ("windows", windows)):
        table.execute_sql(SINK.format(name=name, path=path))
    table.execute_sql(QUERY.format(source="few", sink="thrown_away")).wait()
    process = jvm()
    before, start = cpu_s(process), time.monotonic()
    table.execute_sql(QUERY.format(source="passages", sink="windows")).wait()
    print(
        json.dumps(
            {
                "cpu_s": cpu_s(process) - before,
                "wall_s": time.monotonic() - start,
                "peak_resident_bytes": peak_resident_bytes(process),
            }
        )
    )


if __name__ == "__main__":
    main()
