const FONT = getComputedStyle(document.body).fontFamily;
const EXPORT = { export: true, source: false, compiled: false, editor: false };

function longestName(spec) {
  let longest = 0;
  JSON.stringify(spec, (key, value) => {
    if (key === "domain" && Array.isArray(value)) longest = Math.max(longest, ...value.map((name) => String(name).length));
    return value;
  });
  return longest;
}

function config(width, spec) {
  const room = spec.height.step ? 0.55 * width : width - 60; // names of bars take the rest
  const text = { labelFont: FONT, titleFont: FONT };
  return {
    ...THEME,
    font: FONT,
    axis: { ...THEME.axis, ...text, labelLimit: Math.max(130, 0.42 * width) },
    legend: { ...THEME.legend, ...text, columns: Math.max(1, Math.floor(room / (7 * longestName(spec) + 45))), labelLimit: room - 25 },
  };
}

async function draw(number) {
  const place = document.getElementById(`chart-${number}`);
  const { data, spec } = SPECS[number];
  const { names, rows } = ROWS[data];
  const named = rows.map((row) => Object.fromEntries(names.map((name, i) => [name, row[i]])));
  const options = { renderer: "svg", config: config(place.clientWidth, spec), actions: place.closest(".small") ? false : EXPORT };
  try {
    await vegaEmbed(place, { ...spec, datasets: { rows: named }, autosize: { type: "fit-x", contains: "padding" } }, options);
    place.classList.add("drawn");
  } catch (error) {
    place.classList.add("failed");
    place.textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  }
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const rising = heads[column].getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return rising ? order : -order;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", rising ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => sortBy(table, column)));
}

Promise.all(SPECS.map((_, number) => draw(number))).then(() => (document.documentElement.dataset.ready = "true"));

if (document.body.dataset.refresh) {
  setTimeout(() => location.reload(), 1000 * document.body.dataset.refresh);
}
