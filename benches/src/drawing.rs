//! What every plot of ours is made of.

pub fn text(x: f64, y: f64, anchor: &str, class: &str, words: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n"
    )
}

/// A small number, where lengths are calculated with.
pub fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(0))
}
