// Compare dashboards with the types that Grafana publishes: node grafana_schema.mjs dashboard.json ...
// Prints a line for each difference. Wants @grafana/schema, ts-json-schema-generator and ajv beside it.
import Ajv from 'ajv';
import { readFileSync, readdirSync } from 'node:fs';
import { createGenerator } from 'ts-json-schema-generator';

const raw = 'node_modules/@grafana/schema/dist/types/raw/';
const folders = { 'state-timeline': 'statetimeline', annolist: 'annotationslist' };
const untyped = ['row', 'alertlist'];

// What Grafana reads and its types do not have: queries of other data sources in annotations, and a timeline's spanNulls.
const known = (fault) =>
  fault.instancePath.match(/^\/annotations\/list\/\d+\/target$/) || fault.params.additionalProperty === 'spanNulls';

const ajv = new Ajv({ strict: false, allErrors: true });
const made = new Map();

function schema(folder, type) {
  if (!made.has(folder + type)) {
    const path = raw + folder + readdirSync(raw + folder).find((name) => name.endsWith('.d.ts'));
    const generator = createGenerator({ path, type, skipTypeCheck: true, additionalProperties: false });
    made.set(folder + type, ajv.compile(generator.createSchema(type)));
  }
  return made.get(folder + type);
}

function check(what, validate, value) {
  if (validate(value)) return;
  for (const fault of validate.errors.filter((each) => !known(each))) {
    console.log(`${what}: ${fault.instancePath} ${fault.message} ${JSON.stringify(fault.params)}`);
  }
}

for (const file of process.argv.slice(2)) {
  const dashboard = JSON.parse(readFileSync(file));
  check(dashboard.uid, schema('dashboard/x/', 'Dashboard'), dashboard);
  for (const panel of dashboard.panels.flatMap((each) => [each, ...(each.panels ?? [])])) {
    if (untyped.includes(panel.type)) continue;
    const folder = `composable/${folders[panel.type] ?? panel.type}/panelcfg/x/`;
    check(`${dashboard.uid}, ${panel.title}, options`, schema(folder, 'Options'), panel.options);
    const custom = panel.fieldConfig?.defaults.custom ?? {};
    if (Object.keys(custom).length) check(`${dashboard.uid}, ${panel.title}, field`, schema(folder, 'FieldConfig'), custom);
  }
}
