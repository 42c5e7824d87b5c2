"""From runs to what people read: executed notebooks, tables, the findings, the report and its pages."""
