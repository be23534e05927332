import test from 'ava';
import { typeErrors, typeErrorsOfFile } from './support/type-errors.ts';

test('a type error is returned with its place and the first line of its message', (t) => {
  const source =
    "const sizes: { a: [2, 3] } = { a: [2, 4] };\n\nexport const shape: [2, 3] = sizes.a;\nsizes.b = 'x';\n";
  t.deepEqual(
    typeErrors(source).map(({ line, column, message }) => ({ line, column, message })),
    [
      { line: 1, column: 39, message: "Type '4' is not assignable to type '3'." },
      { line: 4, column: 7, message: "Property 'b' does not exist on type '{ a: [2, 3]; }'." },
    ],
  );
});

test('the detail of an error keeps the lines below the first', (t) => {
  const [error] = typeErrors(
    'const f = (x: { s: { n: 1 } }) => x;\nexport const y = f as (x: { s: { n: 2 } }) => { s: string };\n',
  );
  t.true(error?.detail.includes('\n  '));
  t.false(error?.message.includes('\n'));
});

test('strict options of tsconfig.json apply and imports resolve from tests/', (t) => {
  const source =
    "import { projectRoot } from './support/project.ts';\nexport const first: string = [projectRoot][0];\nexport enum E { A }\n";
  t.deepEqual(
    typeErrors(source).map(({ message }) => message),
    [
      "Type 'string | undefined' is not assignable to type 'string'.",
      "This syntax is not allowed when 'erasableSyntaxOnly' is enabled.",
    ],
  );
});

test('a right file has no errors', (t) => {
  t.deepEqual(typeErrors('export const x: number = 1;\n'), []);
  t.deepEqual(typeErrorsOfFile('tests/type-errors.test.ts'), []);
});
