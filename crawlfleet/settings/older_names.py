"""Names of the earlier implementation: those that have a new one, and those that mean nothing any more."""

from __future__ import annotations

OLD_NAMES = {  # key of the earlier implementation -> setting; of several, the first one given counts
    "device_timeout_threshold": "offline_timeout",
    "device_timeout": "offline_timeout",
    "max_tasks_per_device": "concurrent_tasks",
    "default_task_timeout": "execution_timeout",
    "task_timeout": "execution_timeout",
    "task_retry_delay": "retry_delay_seconds",
    "max_retry_count": "max_retry",
    "enable_performance_monitoring": "enable_monitoring",
    "heartbeat_data_retention_days": "heartbeat_retention_days",
    "assignment_data_retention_days": "assignment_retention_days",
    "api_key": "api_token",
}
_MEET = "devices meet in the database (database_url), not at a master's address"
_PUMP = "the scheduler sizes its batches by itself; concurrent_tasks bounds what runs"
_ALWAYS = "tasks of an offline device are always given to others, after offline_timeout"
_PRIORITY = "priority always counts, in the order in which tasks are claimed"
_SCALING = "start or stop devices instead; every device takes what it has room for"
_TLS = "tls_certificate and tls_key make the API speak TLS"
WITHOUT_EFFECT = {  # key of the earlier implementation -> why it means nothing here
    "alerts": "nothing is sent yet",
    "device_type": "the type of a device is its mode",
    "master_host": _MEET,
    "master_port": _MEET,
    "master_url": _MEET,
    "master_api_prefix": "the prefix of the API is always /api/distribution",
    "task_timeout_check_interval": "timeouts are watched at the moment they are due",
    "timeout_check_interval": "timeouts are watched at the moment they are due",
    "task_pull_limit": _PUMP,
    "batch_size": _PUMP,
    "enable_auto_scaling": _SCALING,
    "auto_scaling_threshold": _SCALING,
    "enable_task_priority": _PRIORITY,
    "high_priority_threshold": _PRIORITY,
    "enable_failover": _ALWAYS,
    "failover_timeout": _ALWAYS,
    "enable_task_redistribution": _ALWAYS,
    "redistribution_delay": _ALWAYS,
    "enable_ssl": _TLS,
    "ssl_cert_path": _TLS,
    "ssl_key_path": _TLS,
}
OLD_VARIABLES = {  # environment variable of the earlier implementation -> key, old or new
    "DEVICE_ID": "device_id",
    "DISTRIBUTION_MODE": "mode",
    **{
        key.upper(): key
        for key in (
            "device_name",
            "dispatch_interval",
            "heartbeat_interval",
            "load_balance_strategy",
            "concurrent_tasks",
            # A variable API_KEY is often there for something else, and would be an admin's token.
            *(key for key in OLD_NAMES if key not in {"device_timeout", "task_timeout", "api_key"}),
            *(
                key
                for key in WITHOUT_EFFECT
                if key not in {"alerts", "master_url", "timeout_check_interval", "batch_size"}
            ),
        )
    },
}
