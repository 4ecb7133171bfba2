// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draws miss-ratio curves as SVG.

use std::path::Path;

use plotters::prelude::*;

/// The curve of one policy: memory in per cent of the pages, misses in per cent of the accesses.
pub type Curve = (&'static str, Vec<(f64, f64)>);

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

/// Draws the curves of a trace.
pub fn draw(file: &Path, title: &str, curves: &[Curve]) -> anyhow::Result<()> {
    let top = curves
        .iter()
        .flat_map(|(_, points)| points)
        .fold(0.0, |top, point| f64::max(top, point.1));
    let area = SVGBackend::new(file, (720, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..100.0, 0.0..f64::max(top * 1.05, 1e-6))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("memory, % of the pages")
        .y_desc("misses, % of the accesses")
        .draw()?;
    for ((name, points), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(*name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}
