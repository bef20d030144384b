"""The tables in other formats."""

import csv
import io
import json

import pytest

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
SCHEMA = {
    # What eval.schema.json of every_eval_ever, version 0.2.1, asks of the parts that are written.
    "type": "object",
    "required": [
        "schema_version",
        "evaluation_id",
        "retrieved_timestamp",
        "source_metadata",
        "model_info",
        "eval_library",
        "evaluation_results",
    ],
    "additionalProperties": False,
    "properties": {
        "schema_version": {"const": "0.2.1"},
        "evaluation_id": {"type": "string"},
        "retrieved_timestamp": {"type": "string", "pattern": r"^\d+$"},
        "source_metadata": {
            "type": "object",
            "required": ["source_type", "source_organization_name", "evaluator_relationship"],
            "properties": {
                "source_type": {"enum": ["documentation", "evaluation_run"]},
                "source_organization_name": {"type": "string"},
                "evaluator_relationship": {"enum": ["first_party", "third_party", "collaborative", "other"]},
            },
        },
        "eval_library": {
            "type": "object",
            "required": ["name", "version"],
            "properties": {"name": {"type": "string"}, "version": {"type": "string"}, "additional_details": TEXTS},
        },
        "model_info": {
            "type": "object",
            "required": ["name", "id"],
            "properties": {
                "name": {"type": "string"},
                "id": {"type": "string"},
                "inference_engine": TEXTS,
                "additional_details": TEXTS,
            },
        },
        "evaluation_results": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["evaluation_name", "source_data", "metric_config", "score_details"],
                "properties": {
                    "evaluation_name": {"type": "string"},
                    "source_data": {
                        "type": "object",
                        "required": ["dataset_name", "source_type"],
                        "properties": {
                            "dataset_name": {"type": "string"},
                            "source_type": {"const": "other"},
                            "additional_details": TEXTS,
                        },
                    },
                    "metric_config": {
                        "type": "object",
                        "required": ["lower_is_better"],
                        "properties": {
                            "evaluation_description": {"type": "string"},
                            "lower_is_better": {"type": "boolean"},
                            "score_type": {"enum": ["binary", "continuous", "levels"]},
                            "min_score": {"type": "number"},
                            "max_score": {"type": "number"},
                        },
                        "dependentRequired": {"score_type": ["min_score", "max_score"]},
                    },
                    "score_details": {
                        "type": "object",
                        "required": ["score"],
                        "properties": {
                            "score": {"type": "number"},
                            "details": TEXTS,
                            "uncertainty": {
                                "type": "object",
                                "properties": {
                                    "standard_error": {
                                        "type": "object",
                                        "required": ["value"],
                                        "properties": {"value": {"type": "number"}},
                                    },
                                    "num_samples": {"type": "integer"},
                                },
                            },
                        },
                    },
                    "generation_config": {"type": "object", "properties": {"additional_details": TEXTS}},
                },
            },
        },
    },
}


def test_csv_has_a_line_for_each_cell(report):
    rows = list(csv.DictReader(io.StringIO((report / "tables.csv").read_text())))
    of = {(row["table"], row["mode"], row["model"], row["column"]): row for row in rows if row["printed"] != "later"}
    assert len(of) == len([row for row in rows if row["printed"] != "later"])
    assert of["3", "", "Mistral 7B", "SIQA"] | {"best": ""} == {
        "table": "3",
        "mode": "",
        "model": "Mistral 7B",
        "printed": "yes",
        "column": "SIQA",
        "value": "47.0",
        "standard_error": "",
        "best": "",
        "note": "from the Gemma report",
    }
    own = of["6", "", "made_up_15b", "Julia"]
    assert (own["printed"], own["value"], own["note"]) == ("", "", "Julia: its toolchain was not found")
    assert float(of["7", "4-shot", "made_up_15b", "ET"]["standard_error"]) > 1


def test_markdown_tables_have_as_many_cells_in_every_line(report):
    text = (report / "tables.md").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| model")]
    assert len(blocks) == 9
    assert all(len({line.count(" | ") for line in block}) == 1 for block in blocks)
    assert "| **made_up_15b** (evaluated) |" in text
    assert "| 47.0\\* |" in text
    assert "- Missing Julia: Julia: its toolchain was not found." in text
    assert "| Nemotron-4 15B (later: Winogrande 5, ARC-c 25, HellaSwag 10 shots) |" in text
    assert "Nemotron-4 15B's printed average is 64.2; by its own rule it is 66.35." in text


def test_json_tables_hold_the_same_cells(report, evaluation):
    tables = {table["table"]: table for table in json.loads((report / "tables.json").read_text())}
    own = next(row for row in tables[3]["rows"] if not row["printed"])
    assert own["cells"]["PIQA"]["value"] == pytest.approx(100 * evaluation["tables"]["3"][0]["cells"]["PIQA"]["value"])
    assert next(row for row in tables[6]["rows"] if not row["printed"])["cells"]["AVG"] == {
        "value": None,
        "note": "no mean over missing cells; 9 of 11 languages",
    }


def test_every_eval_ever_has_the_form_of_its_schema(report, evaluation):
    jsonschema = pytest.importorskip("jsonschema", reason="validates")
    content = json.loads((report / "every_eval_ever.json").read_text())
    jsonschema.validate(content, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"more": 1}, SCHEMA)
    found = {
        (result["evaluation_name"], result["metric_config"]["evaluation_description"])
        for result in content["evaluation_results"]
    }
    assert found == {(name, metric) for name, task in evaluation["tasks"].items() for metric in task["metrics"]}
    bleu = next(result for result in content["evaluation_results"] if result["evaluation_name"] == "t10_en")
    assert bleu["metric_config"]["max_score"] == 1
    assert bleu["score_details"]["uncertainty"]["standard_error"]["value"] == 0.006
