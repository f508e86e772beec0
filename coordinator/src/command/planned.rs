//! Plans in files.

use std::{fs, path::Path};

use vmferry_core::{
    flow::{Plan, Planned},
    migration::Order,
};
use vmferry_remote::chain::chain;

use crate::{exit::Failed, render::Terminal};

/// Reads one that was saved.
pub(super) fn read(file: &Path) -> Result<Planned, Failed> {
    let cannot = |why: String| Failed::usage(format!("{} cannot be used as a plan: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    let planned: Planned = serde_json::from_str(&text)
        .map_err(|error| cannot(format!("{error}; vmferry plan NAME --save FILE writes one")))?;
    planned.known().map_err(|error| cannot(chain(&error)))
}

/// Saves one that is not refused.
pub(super) fn write(terminal: Terminal, file: &Path, order: &Order, plan: &Plan) -> Result<(), Failed> {
    let name = &order.instance_name;
    if plan.is_refused() {
        terminal.note(&format!("{name} cannot move so: no plan was written to {}", file.display()));
        return Ok(());
    }
    let text = serde_json::to_string_pretty(&Planned::of(order, plan))
        .map_err(|error| Failed::usage(format!("the plan of {name} cannot be written down: {error}")))?;
    fs::write(file, text + "\n")
        .map_err(|error| Failed::usage(format!("cannot write the plan of {name} to {}: {error}", file.display())))?;
    terminal.note(&format!("written to {0}; vmferry migrate --plan {0} insists on it", file.display()));
    Ok(())
}
