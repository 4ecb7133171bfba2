// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draws miss-ratio curves as SVG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

/// The curve of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The policy.
    pub name: &'static str,
    /// What it sees, for the legend.
    pub sees: &'static str,
    /// Memory in per cent of the touched pages, misses in per cent of the accesses.
    pub points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (960, 560);
/// Height of the caption above the plot.
const CAPTION_HEIGHT: u32 = 100;
/// Width of the legend on the right.
const LEGEND_WIDTH: u32 = 180;
// plotters writes a font size as 1 / 1.24 of it.
const TITLE_FONT: u32 = 22;
const FONT: u32 = 17;
const SMALL_FONT: u32 = 15;
/// The vertical axis ends above the highest miss ratio by this factor, so that a line at 100 % does
/// not lie on the frame.
const ROOM: f64 = 1.08;

/// Colours that most people can tell apart, in print too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(153, 153, 153),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];

/// Draws the curves of a trace. The caption is a title and what the workload is.
pub fn draw(file: &Path, title: &str, workload: &str, curves: &[Curve]) -> anyhow::Result<()> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (above, below) = area.split_vertically(CAPTION_HEIGHT);
    let (left, right) = below.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    write(&above, (16, 10), title, TITLE_FONT)?;
    let lines = [
        format!("Workload: {workload}."),
        "Across: memory, in % of the pages that are touched. At 100 all of them fit.".into(),
        "Up: misses (accesses to a page that is not in memory), in % of all accesses. \
         At 100 every access is a miss."
            .into(),
    ];
    for (line, y) in lines.iter().zip((40..).step_by(19)) {
        write(&above, (16, y), line, FONT)?;
    }
    let mut chart = ChartBuilder::on(&left)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(68)
        .build_cartesian_2d(0.0..100.0, 0.0..end(curves))?;
    let number = |value: &f64| format!("{}", (value * 1e4).round() / 1e4);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .label_style(("sans-serif", SMALL_FONT))
        .axis_desc_style(("sans-serif", FONT))
        .x_desc("memory, % of the touched pages")
        .y_desc("misses, % of the accesses (lower is better)")
        .draw()?;
    for (nth, (curve, colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        // Each curve is thinner than the one before, so that one under others can be seen.
        let width = u32::try_from((curves.len() - nth) * 2 / 3).unwrap_or(0) + 2;
        let style = colour.stroke_width(width);
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        let y = 24 + 44 * i32::try_from(nth).unwrap_or(0);
        right.draw(&PathElement::new([(4, y), (26, y)], style))?;
        write(&right, (34, y - 8), curve.name, FONT)?;
        write(&right, (34, y + 9), curve.sees, SMALL_FONT)?;
    }
    area.present()?;
    Ok(())
}

/// Where the vertical axis ends.
fn end(curves: &[Curve]) -> f64 {
    let points = curves.iter().flat_map(|curve| &curve.points);
    let top = points.fold(0.0, |top, point| f64::max(top, point.1));
    f64::max(top * ROOM, 1e-6)
}

fn write(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    at: (i32, i32),
    text: &str,
    size: u32,
) -> anyhow::Result<()> {
    area.draw(&Text::new(text, at, ("sans-serif", size)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_explains_itself_and_has_room_above_100() {
        let curve = Curve {
            name: "sweep",
            sees: "page-ins alone",
            points: vec![(25.0, 100.0), (75.0, 50.0)],
        };
        assert!(end(std::slice::from_ref(&curve)) > 105.0);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loop.svg");
        draw(&file, "loop", "a loop", &[curve]).unwrap();
        let svg = std::fs::read_to_string(file).unwrap();
        for part in ["Workload: a loop.", "At 100 every", "page-ins alone"] {
            assert!(svg.contains(part), "{part}");
        }
    }
}
