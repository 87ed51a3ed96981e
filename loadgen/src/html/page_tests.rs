//! Pages of reports that are good, broken, and hostile.

use super::*;

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
    let page = document("<x>", "");
    assert!(page.contains("<title>&lt;x&gt;</title>"), "{page}");
}

#[test]
fn the_page_loads_nothing() {
    let page = document("x", "");
    for outside in ["http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_style_sheet_knows_every_colour_of_the_plots() {
    for colour in ["010101", "020202", "030300", "030301", "030302", "040404"] {
        assert!(STYLE.contains(&format!("\"#{colour}\"")), "{colour}");
    }
}
