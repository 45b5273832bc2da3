"""What report.py and console.py are made of: wording, tables as plain data, SVG."""
