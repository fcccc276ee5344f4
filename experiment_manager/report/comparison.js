"use strict";
// ---- the comparison of the groups: each figure is drawn with the colours of the page

const DRAWN = {
  intervals(found) {
    const labels = found.methods.map(([label]) => plain(label));
    const trace = (name, shift, symbol) => {
      const ends = found.methods.map(([, aggregates]) => aggregates[name]);
      return {
        type: "scatter", mode: "markers", name, x: ends.map(([value]) => value), y: labels.map((_, place) => place + shift),
        marker: { size: 9, symbol, color: found.places.map((place) => ofGroup(place, scheme())) },
        error_x: {
          type: "data", symmetric: false, array: ends.map(([value, , high]) => high - value),
          arrayminus: ends.map(([value, low]) => value - low), color: layout({}).font.color, thickness: 1.4, width: 4,
        },
        customdata: ends, text: labels,
        hovertemplate: `${name} %{customdata[0]:.6g}<br>95 %: %{customdata[1]:.5g} to %{customdata[2]:.5g}<extra>%{text}</extra>`,
      };
    };
    const yaxis = { autorange: "reversed", tickvals: labels.map((_, place) => place), ticktext: labels, showgrid: false };
    const more = { height: 100 + 50 * labels.length, xaxis: { title: { text: plain(found.score) } }, yaxis };
    return [[trace("iqm", -0.12, "circle"), trace("mean", 0.12, "circle-open")], more];
  },
  improvement(found) {
    const labels = found.pairs.map(([better, other]) => `${plain(better)} over ${plain(other)}`);
    const ends = found.pairs.map(([, , interval]) => interval);
    const trace = {
      type: "scatter", mode: "markers", x: ends.map(([value]) => value), y: labels.map((_, place) => place),
      marker: { size: 9, color: ofGroup(0, scheme()) },
      error_x: {
        type: "data", symmetric: false, array: ends.map(([value, , high]) => high - value),
        arrayminus: ends.map(([value, low]) => value - low), color: ofGroup(0, scheme()), thickness: 1.4, width: 4,
      },
      customdata: ends, text: labels, hovertemplate: "%{x:.3g}<br>95 %: %{customdata[1]:.3g} to %{customdata[2]:.3g}<extra>%{text}</extra>",
    };
    const even = { type: "line", x0: 0.5, x1: 0.5, yref: "paper", y0: 0, y1: 1, line: { color: layout({}).font.color, dash: "dot" } };
    const yaxis = { autorange: "reversed", tickvals: labels.map((_, place) => place), ticktext: labels, showgrid: false };
    return [[trace], { height: 90 + 30 * labels.length, shapes: [even], xaxis: { range: [-0.02, 1.02] }, yaxis }];
  },
  profile(found) {
    const bands = [], lines = [];
    found.profiles.forEach(([at, shares, lows, highs], place) => {
      const colour = ofGroup(found.places[place], scheme()), name = plain(found.methods[place][0]);
      bands.push({ ...band({ steps: at, lows, highs }), type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself",
        fillcolor: `${colour}2e`, hoverinfo: "skip", showlegend: false, name });
      lines.push({ x: at, y: shares, name, type: "scatter", mode: "lines", line: { color: colour, width: 2, dash: DASHES[place % 3] },
        hovertemplate: "%{y:.3g} of the runs above %{x:.6g}<extra>%{fullData.name}</extra>" });
    });
    const more = { showlegend: true, legend: { orientation: "h", y: -0.25 } };
    return [[...bands, ...lines], { ...more, xaxis: { title: { text: plain(found.score) } }, yaxis: { range: [0, 1.02] } }];
  },
};

function drawCompared(element) {
  const [traces, more] = DRAWN[element.dataset.figure](data.compared);
  Plotly.react(element, traces, layout(more), CONFIG);
  element.dataset.drawn = "yes";
}
