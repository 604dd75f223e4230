//! `store backup` and `store check`.

use std::{io::Write, path::Path};

use super::{Failed, Table, typed};
use crate::{
    cli::progress::Progress,
    migrate::end,
    store::stock::{self, Beside, Place},
};

pub(super) fn backup(file: &Path, place: &Place, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<(), Failed> {
    progress.begin("copying", 0);
    let (copy, counts, problems) = stock::backup(place, &typed(file)?, &mut || progress.one())?;
    progress.end();
    let restore = "To restore it: stop the host, move its store away, and `conductor-host store import --from";
    write!(out, "Copied\n  - {place}\n\n{}\n{}\n  - {copy}\n\n{restore} {copy}`\n", Table(&[("written", counts)]), end(false))?;
    out.flush()?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failed::Found(format!("the copy is written, and this is damaged in it as in the store:\n  - {}", problems.join("\n  - "))))
}

pub(super) fn check(place: &Place, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<(), Failed> {
    progress.begin("reading", 0);
    let stock = stock::read(place, 0, Beside::AHost)?;
    progress.end();
    stock.whole()?;
    writeln!(out, "{place}: ok\n\n{}\n{} bytes of saved state", Table(&[("there", stock.counts())]), stock.bytes())?;
    if stock.left() > 0 {
        writeln!(out, "{} files of saved state that no session has: a host removes them when it starts", stock.left())?;
    }
    Ok(out.flush()?)
}
