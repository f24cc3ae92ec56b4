"""Grafana's classic dashboards as strict models.

They follow the types of @grafana/schema 12.3, but have only what these dashboards use: so anything new is
looked at before it is allowed.
"""
# ruff: noqa: N815 - keys are Grafana's; pydantic copies defaults

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]


class Strict(BaseModel):
    """A JSON or YAML object: every key must be known, and every value must have the type of its key."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DataSource(Strict):
    type: str
    uid: str


class Legend(Strict):
    showLegend: bool
    displayMode: Literal["list", "table", "hidden"]
    placement: Literal["bottom", "right"]
    calcs: list[Literal["lastNotNull", "mean", "max", "min", "sum"]]


class Tooltip(Strict):
    mode: Literal["single", "multi", "none"]
    sort: Literal["asc", "desc", "none"]


class Graph(Strict):
    legend: Legend
    tooltip: Tooltip


class CandleFields(Strict):
    open: str
    high: str
    low: str
    close: str
    volume: str


class CandleColors(Strict):
    up: str
    down: str
    flat: str


class Candlestick(Graph):
    mode: Literal["candles", "candles+volume", "volume"]
    candleStyle: Literal["candles", "ohlcbars"]
    colorStrategy: Literal["open-close", "close-close"]
    colors: CandleColors
    fields: CandleFields
    includeAllFields: bool


class Matcher(Strict):
    id: Literal["byName", "byRegexp", "byIndex"]
    options: str | int


class Matched(Strict):
    matcher: Matcher


class XYSeries(Strict):
    frame: Matched
    x: Matched
    y: Matched


class XYChart(Graph):
    mapping: Literal["auto", "manual"]
    series: list[XYSeries]


class StateTimeline(Graph):
    alignValue: Literal["left", "center", "right"]
    mergeValues: bool
    perPage: int = 0
    rowHeight: float
    showValue: Literal["auto", "always", "never"]


class Reduce(Strict):
    values: bool
    calcs: list[Literal["lastNotNull"]]
    fields: str


class TextSize(Strict):
    titleSize: int = 0
    valueSize: int = 0


class Stat(Strict):
    reduceOptions: Reduce
    colorMode: Literal["none", "value", "background", "background_solid"]
    graphMode: Literal["none", "line", "area"]
    justifyMode: Literal["auto", "center"]
    orientation: Literal["auto", "vertical", "horizontal"]
    percentChangeColorMode: Literal["standard", "inverted", "same_as_value"]
    showPercentChange: bool
    textMode: Literal["auto", "value", "value_and_name", "name", "none"]
    wideLayout: bool
    text: TextSize = TextSize()


class SortBy(Strict):
    displayName: str
    desc: bool


class Table(Strict):
    showHeader: bool
    cellHeight: Literal["sm", "md", "lg"]
    frameIndex: int
    sortBy: list[SortBy]


class Code(Strict):
    language: str
    showLineNumbers: bool
    showMiniMap: bool


class Text(Strict):
    mode: Literal["markdown", "html", "code"]
    content: str
    code: Code


class AlertStates(Strict):
    firing: bool
    pending: bool
    recovering: bool
    noData: bool
    error: bool
    normal: bool


class AlertList(Strict):
    viewMode: Literal["list", "stat"]
    groupMode: Literal["default", "custom"]
    groupBy: list[str]
    maxItems: int
    sortOrder: Literal[1, 2, 3, 4, 5]
    dashboardAlerts: bool
    alertName: str
    alertInstanceLabelFilter: str
    stateFilter: AlertStates


class AnnotationList(Strict):
    limit: int
    navigateAfter: str
    navigateBefore: str
    navigateToPanel: bool
    onlyFromThisDashboard: bool
    onlyInTimeRange: bool
    showTags: bool
    showTime: bool
    showUser: bool
    tags: list[str]


OPTIONS: dict[str, type[Strict]] = {
    "timeseries": Graph,
    "candlestick": Candlestick,
    "xychart": XYChart,
    "state-timeline": StateTimeline,
    "stat": Stat,
    "table": Table,
    "text": Text,
    "alertlist": AlertList,
    "annolist": AnnotationList,
}


class HideFrom(Strict):
    legend: bool
    tooltip: bool
    viz: bool


class LineStyle(Strict):
    fill: Literal["solid", "dash", "dot"]
    dash: list[int] = []


class Stacking(Strict):
    mode: Literal["none", "normal", "percent"]
    group: str


class ThresholdsStyle(Strict):
    mode: Literal["off", "line", "dashed", "area", "line+area", "dashed+area", "series"]


class Scale(Strict):
    type: Literal["linear", "log", "symlog"]
    log: Literal[2, 10] = 10


class Axis(Strict):
    axisBorderShow: bool = False
    axisColorMode: Literal["text", "series"] = "text"
    axisLabel: str = ""
    axisPlacement: Literal["auto", "left", "right", "hidden"] = "auto"
    scaleDistribution: Scale | None = None
    hideFrom: HideFrom | None = None


class GraphField(Axis):
    drawStyle: Literal["line", "bars", "points"] = "line"
    lineWidth: int = 1
    lineStyle: LineStyle | None = None
    fillOpacity: int = 0
    fillBelowTo: str = ""
    showPoints: Literal["auto", "never", "always"] = "auto"
    pointSize: int = 5
    spanNulls: bool | int = False
    stacking: Stacking | None = None
    thresholdsStyle: ThresholdsStyle | None = None


class PointSize(Strict):
    fixed: int


class XYField(Axis):
    show: Literal["points", "lines", "points+lines"] = "points"
    pointSize: PointSize | None = None
    fillOpacity: int = 50
    lineWidth: int = 1


class TimelineField(Axis):
    fillOpacity: int = 70
    lineWidth: int = 0
    spanNulls: bool | int = False


class CellOptions(Strict):
    type: Literal["auto", "color-text", "color-background", "gauge"]
    mode: Literal["basic", "gradient", "lcd"] = "basic"
    valueDisplayMode: Literal["color", "text", "hidden"] = "text"


class HideColumn(Strict):
    viz: bool


class TableField(Strict):
    align: Literal["auto", "left", "center", "right"] = "auto"
    cellOptions: CellOptions = CellOptions(type="auto")
    filterable: bool = False
    hideFrom: HideColumn | None = None
    minWidth: int = 150
    inspect: bool = False
    width: int = 0
    wrapHeaderText: bool = False
    wrapText: bool = False


class NoField(Strict):
    pass


CUSTOM: dict[str, type[Strict]] = {
    "timeseries": GraphField,
    "candlestick": GraphField,
    "xychart": XYField,
    "state-timeline": TimelineField,
    "stat": NoField,
    "table": TableField,
}


class Color(Strict):
    mode: Literal["fixed", "thresholds", "palette-classic", "continuous-RdYlGr"]
    fixedColor: str = ""


class Step(Strict):
    value: float | int | None
    color: str


class Thresholds(Strict):
    mode: Literal["absolute"]
    steps: list[Step] = Field(min_length=1)


class Result(Strict):
    text: str = ""
    color: str
    index: int


class ValueMap(Strict):
    type: Literal["value"]
    options: dict[str, Result]


class Pattern(Strict):
    pattern: str
    result: Result


class RegexMap(Strict):
    type: Literal["regex"]
    options: Pattern


class Link(Strict):
    title: str
    url: str


class FieldDefaults(Strict):
    custom: Json = {}
    noValue: str = ""
    unit: Literal["none", "short", "percent", "percentunit", "s", "bytes", "time:YYYY-MM-DD HH:mm:ss", ""] = (
        ""
    )
    decimals: int = 0
    min: float | int | None = None
    max: float | int | None = None
    color: Color | None = None
    thresholds: Thresholds | None = None
    mappings: list[ValueMap | RegexMap] = []
    links: list[Link] = []
    displayName: str = ""


class Property(Strict):
    id: str
    value: Any


class Override(Strict):
    matcher: Matcher
    properties: list[Property]


class FieldConfig(Strict):
    defaults: FieldDefaults
    overrides: list[Override]


class ClickHouseQuery(Strict):
    """A query as the plugin's back end and its editor read it."""

    refId: str
    datasource: DataSource
    editorType: Literal["sql"]
    queryType: Literal["timeseries", "table"]
    format: Literal[0, 1]
    pluginVersion: str
    meta: Json = {}
    rawSql: str


class PrometheusQuery(Strict):
    refId: str
    datasource: DataSource
    editorMode: Literal["code"]
    expr: str
    legendFormat: str
    range: Literal[True]


class AnnotationTarget(Strict):
    type: Literal["dashboard"]
    limit: int


class GrafanaQuery(Strict):
    """A query of annotations as Grafana's own data source reads it."""

    refId: str
    datasource: DataSource
    queryType: Literal["annotations"]
    target: AnnotationTarget


class Grid(Strict):
    x: int = Field(ge=0)
    y: int = Field(ge=0)
    w: int = Field(ge=1, le=24)
    h: int = Field(ge=1)


class ToMatrix(Strict):
    rowField: str
    columnField: str
    valueField: str
    emptyValue: Literal["null"]


class Naming(Strict):
    asLabels: Literal[False]


class Partition(Strict):
    fields: list[str]
    keepFields: Literal[False]
    naming: Naming


class ConfigMapping(Strict):
    fieldName: str
    handlerKey: Literal["displayName"]


class ConfigFromData(Strict):
    configRefId: str
    applyTo: Matcher
    mappings: list[ConfigMapping]


class Extraction(Strict):
    source: str
    format: Literal["regexp"]
    regExp: str
    replace: Literal[False]
    keepTime: Literal[False]


class Organization(Strict):
    includeByName: dict[str, Literal[True]]
    indexByName: dict[str, int]
    renameByName: dict[str, str]


class Expression(Strict):
    value: str


class FilterConfig(Strict):
    id: Literal["regex"]
    options: Expression


class ValueFilter(Strict):
    fieldName: str
    config: FilterConfig


class FilterByValue(Strict):
    type: Literal["exclude"]
    match: Literal["any"]
    filters: list[ValueFilter]


TRANSFORMATIONS: dict[str, type[Strict]] = {
    "groupingToMatrix": ToMatrix,
    "partitionByValues": Partition,
    "configFromData": ConfigFromData,
    "extractFields": Extraction,
    "filterByValue": FilterByValue,
    "organize": Organization,
}


class Transformation(Strict):
    id: str
    options: Json


class Panel(Strict):
    id: int
    type: str
    pluginVersion: str = ""
    title: str
    gridPos: Grid
    description: str = ""
    datasource: DataSource | None = None
    targets: list[ClickHouseQuery | PrometheusQuery | GrafanaQuery] = []
    options: Json = {}
    fieldConfig: FieldConfig | None = None
    interval: Literal["100ms", "1s", "5s"] = "1s"
    maxDataPoints: int = 0
    transformations: list[Transformation] = []
    collapsed: bool = False
    panels: list["Panel"] = []


class VariableQuery(Strict):
    refId: Literal["var"]
    queryType: Literal["sql"]
    rawSql: str


class Current(Strict):
    text: str
    value: str


class Variable(Strict):
    name: str
    label: str
    type: Literal["query"]
    datasource: DataSource
    query: VariableQuery
    refresh: Literal[1, 2]
    sort: Literal[0]
    hide: Literal[0, 2]
    multi: Literal[False]
    includeAll: Literal[False]
    skipUrlSync: bool
    current: Current | None = None


class Variables(Strict):
    list: list[Variable]


class Filter(Strict):
    exclude: bool
    ids: list[int]


class AnnotationQuery(Strict):
    name: str
    datasource: DataSource
    enable: bool
    hide: bool
    iconColor: str
    filter: Filter
    target: ClickHouseQuery


class Annotations(Strict):
    list: list[AnnotationQuery]


class DashboardLink(Strict):
    type: Literal["dashboards"]
    title: str
    tags: list[str]
    asDropdown: bool
    icon: str
    includeVars: bool
    keepTime: bool
    targetBlank: bool
    tooltip: str
    url: str


class TimePicker(Strict):
    refresh_intervals: list[str]


class Dashboard(Strict):
    id: None
    uid: str = Field(max_length=40)
    title: str
    description: str
    tags: list[str]
    schemaVersion: int = Field(ge=39, le=42)
    version: int
    editable: bool
    graphTooltip: Literal[1]
    liveNow: bool
    time: dict[Literal["from", "to"], str]
    timezone: Literal["utc", "browser"]
    weekStart: str
    refresh: str
    fiscalYearStartMonth: int
    timepicker: TimePicker
    links: list[DashboardLink]
    templating: Variables
    annotations: Annotations
    panels: list[Panel]


def check_panel(panel: Json) -> None:
    """Check a panel, with the options that only its kind has."""
    Panel.model_validate(panel)
    kind = panel["type"]
    if kind == "row":
        return
    OPTIONS[kind].model_validate(panel["options"])
    for transformation in panel.get("transformations", []):
        TRANSFORMATIONS[transformation["id"]].model_validate(transformation["options"])
    config = panel.get("fieldConfig")
    if config is None:
        return
    CUSTOM[kind].model_validate(config["defaults"]["custom"])
    for override in config["overrides"]:
        for entry in override["properties"]:
            name = entry["id"]
            if name.startswith("custom."):
                value = entry["value"]
                for part in reversed(name.split(".")[1:]):
                    value = {part: value}
                CUSTOM[kind].model_validate(value)
            else:
                FieldDefaults.model_validate({name: entry["value"]})
