//! A bill of materials in CycloneDX 1.6, with the original as ancestor.
//!
//! <https://cyclonedx.org/docs/1.6/json/>

use super::Facts;
use crate::error::Result;
use crate::onnx::FileDigest;
use crate::report::write_json;
use serde_json::{Value, json};

/// The bill of the new model: hashes, pedigree with the original and every weight that changed, measures and limits.
///
/// It has no serial number and no time, so that the same change gives the same bytes.
///
/// # Errors
/// `Internal` when it cannot be said in JSON.
pub fn cyclonedx(f: &Facts) -> Result<Vec<u8>> {
    let changes: Vec<Value> = f
        .changed()
        .map(|c| json!({"weight": c.name, "elements": c.elements, "changed": c.changed, "relative": c.relative}))
        .collect();
    let mut model = component("model", &f.after);
    model["pedigree"] = json!({
        "ancestors": [component("original", &f.before)],
        "patches": [{
            "type": "unofficial",
            "diff": {"text": {"contentType": "application/json", "content": Value::from(changes).to_string()}},
        }],
        "notes": format!("Forgetting of {}: {}, seed {}. Nothing but {} differs.", f.classes(), f.rule(), f.seed, f.extent()),
    });
    model["modelCard"] = json!({
        "modelParameters": {"task": "classification"},
        "quantitativeAnalysis": {"performanceMetrics": metrics(f)},
        "considerations": {"technicalLimitations": f.limits()},
    });
    model["properties"] = f
        .strength
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .chain([("rule".to_owned(), f.rule.to_owned()), ("engine".to_owned(), f.engine.to_owned())])
        .map(|(name, value)| json!({"name": format!("{}:{name}", env!("CARGO_PKG_NAME")), "value": value}))
        .collect();
    let tool = json!({"type": "application", "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")});
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model},
    });
    let mut out = Vec::new();
    write_json(&mut out, &bom)?;
    Ok(out)
}

/// A model of these files; the first is the model itself.
fn component(reference: &str, files: &[FileDigest]) -> Value {
    let hashes = |d: &FileDigest| json!([{"alg": "SHA-256", "content": d.sha256}]);
    let mut it = json!({"type": "machine-learning-model", "bom-ref": reference, "name": reference});
    if let Some((model, data)) = files.split_first() {
        it["name"] = json!(model.name);
        it["hashes"] = hashes(model);
        let data = data.iter().map(|d| json!({"type": "file", "name": d.name, "hashes": hashes(d)}));
        it["components"] = data.collect();
    }
    it
}

fn metrics(f: &Facts) -> Vec<Value> {
    let one = |a: &super::Answer| {
        let [before, after] = a.cells();
        [("before", before), ("after", after)]
            .map(|(when, value)| json!({"type": a.what, "value": value, "slice": format!("labelled inputs, {when}")}))
    };
    f.answers.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::emit::tests::facts;

    #[test]
    fn the_pedigree_names_the_original_and_the_changes() {
        let bytes = cyclonedx(&facts()).unwrap();
        assert_eq!(bytes, cyclonedx(&facts()).unwrap());
        let bom: Value = serde_json::from_slice(&bytes).unwrap();
        let model = &bom["metadata"]["component"];
        let pedigree = &model["pedigree"];
        assert_eq!(pedigree["ancestors"][0]["hashes"][0]["content"], "a".repeat(64));
        assert_eq!(model["components"][0]["hashes"][0]["content"], "c".repeat(64));
        let diff: Value =
            serde_json::from_str(pedigree["patches"][0]["diff"]["text"]["content"].as_str().unwrap()).unwrap();
        assert_eq!(diff, json!([{"weight": "fc1\n# weight|", "elements": 10, "changed": 6, "relative": 0.25}]));
        assert_eq!(model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"].as_array().unwrap().len(), 6);
        assert!(
            pedigree["notes"].as_str().unwrap().starts_with("Forgetting of classes 1, 4 of 10: dampen"),
            "{pedigree}"
        );
    }
}
