"""What a reader may use: kinds of statements, functions, tables, formats and settings.

The gate compares each query with these lists. Everything is refused that is not listed, except for functions,
of which there are many and most are harmless: `FUNCTIONS` lists those that are refused.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STATEMENTS = _words("""
    SelectWithUnionQuery SelectIntersectExceptQuery Explain DescribeQuery ShowTables ShowColumns
    ShowIndexes ShowFunctions ShowEngineQuery ShowCreateTableQuery ShowCreateViewQuery
    ShowCreateDatabaseQuery ExistsTableQuery ExistsViewQuery ExistsDatabaseQuery
""")
"""Kinds of statements that may run, as ``EXPLAIN AST`` names them."""

TABLE_FUNCTIONS = _words("""
    numbers numbers_mt zeros zeros_mt primes generate_series generateseries generaterandom values
    sqlstandardvalues null view
""")
"""Table functions that may be read from. All others reach a file, the network or this process."""

FUNCTIONS = re.compile(
    r"file.*|ai[a-z]+|dict(get|has|isin).*|catboost.*|evalmlmethod|naivebayes.*|address.*|demangle|sleep.*|eval"
    r"|getserver.*|getmacro|getclienthttpheader|showcertificate|structureto.*|logtrace|joinget.*|fuzz.*"
    r"|zookeeper.*|iceberg.*|region.*|tcpport|transaction.*|buildid|serveruuid"
)
"""Functions that may not be called: they reach a file, the network, a dictionary, the log or the machine, or
only wait."""

SYSTEM_TABLES = _words("""
    one numbers numbers_mt zeros zeros_mt primes databases tables columns parts parts_columns settings
    functions table_functions table_engines database_engines formats data_type_families
    aggregate_function_combinators collations time_zones keywords licenses contributors build_options
    metrics events asynchronous_metrics merges mutations dictionaries data_skipping_indices projections
    constraints completions clusters macros
""")
"""Tables of the database ``system`` that may be read."""

FORMATS = _words("""
    Native RowBinary RowBinaryWithNames RowBinaryWithNamesAndTypes Null Values TSKV Vertical Markdown MD
    XML SQLInsert MsgPack BSONEachRow Avro ORC Parquet Arrow ArrowStream Prometheus LineAsString RawBLOB
    Hash CustomSeparated CustomSeparatedWithNames CustomSeparatedWithNamesAndTypes GeoJSON Npy JSON
    JSONStrings JSONCompact JSONCompactStrings JSONColumns JSONCompactColumns JSONColumnsWithMetadata
    JSONObjectEachRow JSONEachRow NDJSON JSONLines JSONL PrettyJSONEachRow PrettyNDJSON PrettyJSONLines
    JSONStringsEachRow JSONCompactEachRow JSONCompactStringsEachRow JSONCompactEachRowWithNames
    JSONCompactEachRowWithNamesAndTypes JSONCompactStringsEachRowWithNames
    JSONCompactStringsEachRowWithNamesAndTypes JSONEachRowWithProgress JSONStringsEachRowWithProgress
    JSONCompactEachRowWithProgress JSONCompactStringsEachRowWithProgress CSV CSVWithNames
    CSVWithNamesAndTypes
""").union(
    (
        name + suffix
        for name in ("TSV", "TSVRaw", "TabSeparated", "TabSeparatedRaw", "Raw")
        for suffix in ("", "WithNames", "WithNamesAndTypes")
    ),
    (
        f"Pretty{style}{escapes}{block}"
        for style in ("", "Compact", "Space")
        for escapes in ("", "NoEscapes")
        for block in ("", "MonoBlock")
    ),
)
"""Formats in which an answer may be written. The others need a schema file or belong to another protocol."""

SETTINGS = re.compile(
    r"output_format_(?!schema|avro|protobuf|capn)\w+|format_(csv|tsv|json|custom|binary|display)\w+"
    r"|date_time_\w+|session_timezone|bool_(true|false)_representation|extremes|limit|offset|final|join_use_nulls"
    r"|max_(threads|block_size|result_rows|result_bytes|rows_to_read|bytes_to_read|rows_to_group_by)"
    r"|max_columns_to_read|union_default_mode"
    r"|(result|read|group_by)_overflow_mode|timeout_overflow_mode|max_execution_time|max_memory_usage"
    r"|aggregate_functions_null_for_empty|prefer_column_name_to_alias|group_by_use_nulls|transform_null_in"
    r"|additional_table_filters|additional_result_filter|empty_result_for_aggregation_by_empty_set"
    r"|log_queries|log_comment|use_client_time_zone|cast_keep_nullable|optimize_\w+|enable_analyzer"
    r"|allow_experimental_analyzer|do_not_merge_across_partitions_select_final|decimal_check_overflow"
    r"|any_join_distinct_right_table_keys|count_distinct_implementation|short_circuit_function_evaluation"
    r"|distinct_overflow_mode|enable_positional_arguments"
    r"|async_insert|wait_for_async_insert"  # the Java client sends them with a SELECT
)
"""Settings that a query may change: how its result looks, and its own limits.

None of them names a file, an address or a schema, and none raises a limit of the server."""

TRANSPORT_PARAMETERS = _words(
    """
    query database default_format user password quota_key query_id session_id session_timeout
    session_check close_session role compress decompress buffer_size wait_end_of_query
    client_protocol_version enable_http_compression http_zlib_compression_level
    send_progress_in_http_headers http_headers_progress_interval_ms add_http_cors_header stacktrace
    http_write_exception_in_output_format http_response_buffer_size readonly framing
    cancel_http_readonly_queries_on_client_close http_receive_timeout http_send_timeout
    network_compression_method network_zstd_compression_level
"""
)
"""Parameters of the HTTP interface itself, which are no settings.

A session has no state here, as no query changes any.
"""
