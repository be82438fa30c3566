"""What a run found, for people and for programs: lines of JSON, tables, pictures."""
